"""Models, data sets and strategies by name: from a text, and with options that do not fit."""

import pytest

from dalib.core.create import model_from, parse_use
from dalib.errors import RecipeError


def test_a_text_gives_a_name_and_options_in_yaml() -> None:
    assert parse_use("timm backbone=resnet18 pretrained=true  widths=[1,2.5] map=null") == {
        "use": "timm",
        "backbone": "resnet18",
        "pretrained": True,
        "widths": [1, 2.5],
        "map": None,
    }
    assert parse_use("bisenet") == {"use": "bisenet"}
    assert parse_use("folder root=a=b") == {"use": "folder", "root": "a=b"}
    assert parse_use("") == {"use": ""}  # which is the name of nothing, and refused as such


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timm resnet18", r"^'timm resnet18': expected a name and options as key=value, got 'resnet18'\.$"),
        ("timm =resnet18", r"expected a name and options as key=value, got '=resnet18'\.$"),
        ("timm head=a head=b", r"'head' is given twice; give it once\.$"),
        ("timm use=bisenet", r"'use' is given twice"),
        ("timm head={", r"^timm\.head: not YAML"),
    ],
)
def test_a_text_of_another_form_is_refused(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse_use(text)


def test_a_model_takes_its_classes_from_the_data_and_its_weights_from_a_path() -> None:
    with pytest.raises(RecipeError, match=r"^bisenet\.num_classes: the data sets give the number of classes; drop it"):
        model_from({"use": "bisenet", "num_classes": 7}, 19, "bisenet")
    with pytest.raises(RecipeError, match=r"^bisenet\.weights: expected a path or null, got \[1\]"):
        model_from({"use": "bisenet", "weights": [1]}, 19, "bisenet")
