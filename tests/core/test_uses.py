"""A name with options from one text."""

import pytest

from dalib.core.uses import parse_use
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
