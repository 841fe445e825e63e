"""The golden outputs of official implementations."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """Weights, the input and outputs of official networks, by their name in the folder of goldens."""

    folder: Path
    fill: ModuleType

    def state(self, name: str) -> dict[str, Tensor]:
        """Return an official checkpoint."""
        shapes = self.fill.load_shapes(self.folder / f"{name}.keys.json")
        return {key: torch.from_numpy(value) for key, value in self.fill.fill(shapes).items()}

    def image(self) -> Tensor:
        """Return the input (1, 3, 64, 96)."""
        return torch.from_numpy(self.fill.image(0, 1, 3, 64, 96))

    def check(self, name: str, outputs: dict[str, Tensor], tolerance: float = 1e-4) -> None:
        """Compare outputs, by their key in the file, to within a share of the official ones' standard deviation.

        Those in float64 are compared with the official outputs in float64.
        """
        kind = "out64" if all(output.dtype == torch.float64 for output in outputs.values()) else "out"
        with np.load(self.folder / f"{name}.{kind}.npz") as file:
            assert outputs.keys() == {key for key in file if key.startswith("out")}
            for key, output in outputs.items():
                np.testing.assert_allclose(output.numpy(), file[key], rtol=0, atol=tolerance * file[key].std())


def read_golden(folder: Path) -> Golden:
    """Return the goldens of a folder, whose ``fill.py`` makes weights and inputs."""
    spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Golden(folder, module)
