"""dalib: unsupervised domain adaptation for semantic segmentation, as plugins that stack over swappable backbones."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalib.core.context import SetupContext
    from dalib.core.create import (
        create_dataset,
        create_model,
        create_strategy,
        list_datasets,
        list_models,
        list_strategies,
    )
    from dalib.core.engine import Engine
    from dalib.core.modules import Critic, OwnedModule
    from dalib.core.ramp import Ramp, value_at
    from dalib.core.step import Step
    from dalib.core.strategy import Strategy
    from dalib.data.batch import Batch, Stream
    from dalib.errors import DalibError, StackError, suggest
    from dalib.evaluation.evaluate import evaluate
    from dalib.evaluation.result import Result
    from dalib.evaluation.validators import Evidence, Validator
    from dalib.hooks import Predict, hookimpl
    from dalib.labels import IGNORE
    from dalib.losses import SegmentationLoss
    from dalib.models import load_weights, wrap_model
    from dalib.options import OptionGroup
    from dalib.registry import Registry
    from dalib.resizing import resize
    from dalib.runs.loading import load_model
    from dalib.runs.recipe import Recipe, load_recipe, make_recipe
    from dalib.runs.run import run

__version__ = "0.1.0"

# The module of each public name, imported on first use, so that `dalib --help` needs no torch.
_HOMES = {
    "IGNORE": "labels",
    "Batch": "data.batch",
    "Critic": "core.modules",
    "DalibError": "errors",
    "Engine": "core.engine",
    "Evidence": "evaluation.validators",
    "OptionGroup": "options",
    "OwnedModule": "core.modules",
    "Predict": "hooks",
    "Ramp": "core.ramp",
    "Recipe": "runs.recipe",
    "Registry": "registry",
    "Result": "evaluation.result",
    "SegmentationLoss": "losses",
    "SetupContext": "core.context",
    "StackError": "errors",
    "Step": "core.step",
    "Strategy": "core.strategy",
    "Stream": "data.batch",
    "Validator": "evaluation.validators",
    "create_dataset": "core.create",
    "create_model": "core.create",
    "create_strategy": "core.create",
    "evaluate": "evaluation.evaluate",
    "hookimpl": "hooks",
    "list_datasets": "core.create",
    "list_models": "core.create",
    "list_strategies": "core.create",
    "load_model": "runs.loading",
    "load_recipe": "runs.recipe",
    "load_weights": "models",
    "make_recipe": "runs.recipe",
    "resize": "resizing",
    "run": "runs.run",
    "suggest": "errors",
    "value_at": "core.ramp",
    "wrap_model": "models",
}

__all__ = [
    "IGNORE",
    "Batch",
    "Critic",
    "DalibError",
    "Engine",
    "Evidence",
    "OptionGroup",
    "OwnedModule",
    "Predict",
    "Ramp",
    "Recipe",
    "Registry",
    "Result",
    "SegmentationLoss",
    "SetupContext",
    "StackError",
    "Step",
    "Strategy",
    "Stream",
    "Validator",
    "create_dataset",
    "create_model",
    "create_strategy",
    "evaluate",
    "hookimpl",
    "list_datasets",
    "list_models",
    "list_strategies",
    "load_model",
    "load_recipe",
    "load_weights",
    "make_recipe",
    "resize",
    "run",
    "suggest",
    "value_at",
    "wrap_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dalib' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dalib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
