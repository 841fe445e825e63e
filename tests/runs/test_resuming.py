"""What a resumed run may change."""

import pytest

from dalib.errors import DalibError
from dalib.runs.resuming import check_same_recipe

RECIPE = """
data:
  source: [{use: gta5, root: /old/gta5, size: [8, 16]}]
  target: {use: folder, root: /old/photos, list: train.txt}
train: {steps: 5}
schedule: {use: poly}
"""


@pytest.fixture
def check(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda recipe: check_same_recipe(tmp_path, recipe)


def test_data_that_have_moved_are_told_and_go_on(check):
    assert check(RECIPE) == ""
    assert check(RECIPE.replace("/old/gta5", "/new/gta5")) == (
        "data.source.0.root was /old/gta5 and is /new/gta5: the run is the same only if the same files lie there."
    )
    both = check(RECIPE.replace("/old", "/new").replace("steps: 5", "steps: 9"))
    assert "data.target.root was /old/photos and is /new/photos" in both and "follow the new schedule" in both


@pytest.mark.parametrize(
    ("was", "now"),
    [("[8, 16]", "[8, 8]"), ("train.txt", "val.txt"), ("root: /old/photos, ", ""), ("gta5,", "synthia,")],
)
def test_anything_else_of_the_data_is_refused(check, was, now):
    with pytest.raises(DalibError, match="Resume with the run's own recipe"):
        check(RECIPE.replace(was, now))
