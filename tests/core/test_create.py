"""Models, data sets and strategies by name, and options that do not fit."""

import pytest

from dalib.core.create import model_from
from dalib.errors import RecipeError


def test_a_model_takes_its_classes_from_the_data_and_its_weights_from_a_path() -> None:
    with pytest.raises(RecipeError, match=r"^bisenet\.num_classes: the data sets give the number of classes; drop it"):
        model_from({"use": "bisenet", "num_classes": 7}, 19, "bisenet")
    with pytest.raises(RecipeError, match=r"^bisenet\.weights: expected a path or null, got \[1\]"):
        model_from({"use": "bisenet", "weights": [1]}, 19, "bisenet")
