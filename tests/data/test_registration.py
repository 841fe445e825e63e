"""How recipes reach the bundled datasets."""

import subprocess
import sys

import pytest

import dalib
from dalib.errors import RecipeError


def test_every_dataset_of_the_design_is_registered():
    assert {"camvid", "carla", "cityscapes", "diorama", "folder", "gta5"} <= set(dalib.list_datasets())


def test_options_of_a_recipe_reach_the_factory_and_wrong_ones_are_named(save, rgb, tmp_path):
    save("images/a.png", rgb)
    assert dalib.create_dataset("folder", root=str(tmp_path), size=[3, 4])[0][0].shape == (3, 3, 4)
    with pytest.raises(RecipeError, match=r"sise: unknown option\. Did you mean 'size'\?"):
        dalib.create_dataset("folder", root=str(tmp_path), sise=[3, 4])
    with pytest.raises(RecipeError, match=r"root: this option is required"):
        dalib.create_dataset("gta5")


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, dalib.data; sys.exit(any(m in sys.modules for m in ('torch', 'kornia', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
