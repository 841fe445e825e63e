"""dalib: unsupervised domain adaptation for semantic segmentation, as plugins that stack over swappable backbones."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalib.batch import Batch, Stream
    from dalib.create import create_dataset, create_model, create_strategy, list_datasets, list_models, list_strategies
    from dalib.crf import DenseCRF
    from dalib.critic import Critic
    from dalib.engine import Engine
    from dalib.errors import DalibError, StackError, suggest
    from dalib.evaluation import Result, evaluate
    from dalib.hookspecs import Predict, hookimpl
    from dalib.losses import IGNORE, SegmentationLoss
    from dalib.models import load_weights, wrap_model
    from dalib.options import OptionGroup
    from dalib.recipe import Recipe, load_recipe, make_recipe
    from dalib.registry import Registry
    from dalib.setup import SetupContext
    from dalib.step import Step
    from dalib.strategy import Strategy
    from dalib.training import run

__version__ = "0.1.0"

# Where each public name lives. They resolve on first use, so that `dalib --help` needs no torch.
_HOMES = {
    "IGNORE": "losses",
    "Batch": "batch",
    "Critic": "critic",
    "DalibError": "errors",
    "DenseCRF": "crf",
    "Engine": "engine",
    "OptionGroup": "options",
    "Predict": "hookspecs",
    "Recipe": "recipe",
    "Registry": "registry",
    "Result": "evaluation",
    "SegmentationLoss": "losses",
    "SetupContext": "setup",
    "StackError": "errors",
    "Step": "step",
    "Strategy": "strategy",
    "Stream": "batch",
    "create_dataset": "create",
    "create_model": "create",
    "create_strategy": "create",
    "evaluate": "evaluation",
    "hookimpl": "hookspecs",
    "list_datasets": "create",
    "list_models": "create",
    "list_strategies": "create",
    "load_recipe": "recipe",
    "load_weights": "models",
    "make_recipe": "recipe",
    "run": "training",
    "suggest": "errors",
    "wrap_model": "models",
}

__all__ = [
    "IGNORE",
    "Batch",
    "Critic",
    "DalibError",
    "DenseCRF",
    "Engine",
    "OptionGroup",
    "Predict",
    "Recipe",
    "Registry",
    "Result",
    "SegmentationLoss",
    "SetupContext",
    "StackError",
    "Step",
    "Strategy",
    "Stream",
    "create_dataset",
    "create_model",
    "create_strategy",
    "evaluate",
    "hookimpl",
    "list_datasets",
    "list_models",
    "list_strategies",
    "load_recipe",
    "load_weights",
    "make_recipe",
    "run",
    "suggest",
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
