"""Models, data sets and strategies by name, and options that do not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dalib import (
    create_dataset,
    create_model,
    create_strategy,
    list_datasets,
    list_models,
    list_strategies,
)
from dalib.core.create import model_from
from dalib.errors import RecipeError
from dalib_plugins.fda import Fda


def test_a_model_takes_its_classes_from_the_data_and_its_weights_from_a_path() -> None:
    with pytest.raises(RecipeError, match=r"^bisenet\.num_classes: the data sets give the number of classes; drop it"):
        model_from({"use": "bisenet", "num_classes": 7}, 19, "bisenet")
    with pytest.raises(RecipeError, match=r"^bisenet\.weights: expected a path or null, got \[1\]"):
        model_from({"use": "bisenet", "weights": [1]}, 19, "bisenet")


def test_a_model_has_the_classes_of_cityscapes_unless_told_others_and_at_least_one() -> None:
    assert create_model("bisenet").num_classes == 19
    assert create_model("bisenet", 1).num_classes == 1
    with pytest.raises(RecipeError, match=r"^bisenet\.num_classes: expected at least 1, got 0"):
        create_model("bisenet", 0)


def test_a_model_starts_from_the_weights_of_a_file(tmp_path: Path) -> None:
    donor = create_model("bisenet", 3).network.state_dict()
    torch.save(donor, tmp_path / "weights.pt")
    state = create_model("bisenet", 3, weights=tmp_path / "weights.pt").network.state_dict()
    assert state.keys() == donor.keys() and all(torch.equal(state[key], donor[key]) for key in donor)


def test_what_is_created_has_the_options_given() -> None:
    assert create_dataset("diorama", size=(64, 96))[0][0].shape == (3, 64, 96)
    assert vars(create_strategy("fda", beta=0.05)).items() >= {"name": "fda", "beta": 0.05}.items()
    assert create_strategy("fda", name="fda_wide").name == "fda_wide" and type(create_strategy("fda")) is Fda


@pytest.mark.parametrize(
    ("create", "name"), [(create_model, "bisenet"), (create_dataset, "diorama"), (create_strategy, "fda")]
)
def test_an_unknown_option_is_named_with_what_it_was_given_to(create: Callable[..., object], name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{name}\.nonsense: "):
        create(name, nonsense=1)


def test_each_kind_has_a_list_of_its_names() -> None:
    models, datasets, strategies = set(list_models()), set(list_datasets()), set(list_strategies())
    assert {"bisenet", "pidnet_s"} <= models and {"diorama", "gta5"} <= datasets and {"fda", "dacs"} <= strategies
    assert not {"bisenet", "pidnet_s"} & (datasets | strategies) and not {"diorama", "gta5"} & (models | strategies)
