"""The door of the models package."""

import subprocess
import sys

import dalib.models


def test_import_loads_neither_timm_nor_kornia() -> None:
    code = "import sys, dalib.models; sys.exit(bool({'timm', 'kornia'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registers_the_networks() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.models: dict[str, object] = {}

        def model(self, name: str, factory: object) -> None:
            self.models[name] = factory

    recorder = Recorder()
    dalib.models.dalib_register(recorder)  # type: ignore[arg-type]
    assert sorted(recorder.models) == ["bisenet", "bisenet_v1", "deeplabv2", "pidnet_l", "pidnet_m", "pidnet_s", "timm"]
