"""The registry of what a recipe can name, with the plugin that registered each name."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import pluggy

from dalib.errors import RegistryError, suggest
from dalib.hooks import PROJECT, hookspec

Kind = Literal["strategy", "model", "dataset", "loss", "optimizer", "schedule", "validator"]
Factory = Callable[..., Any]


class PluginSpecs:
    """The hook that a plugin package implements."""

    @hookspec
    def dalib_register(self, registry: "Registry") -> None:
        """Register strategies, models, data sets and so on: ``registry.strategy("name", cls)``."""


class Registry:
    """Factories that a recipe can name; ``dalib.discovery`` makes the one that a process shares."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Kind, str], tuple[Factory, str]] = {}  # -> (factory, plugin)
        self._owner: str | None = None
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(PluginSpecs)
        self.loaded: dict[str, str] = {}  # plugin -> module
        self.broken: dict[str, str] = {}  # plugin -> error

    def strategy(self, name: str, cls: type[Any]) -> None:
        """Register a strategy class; ``name`` becomes its default name in stacks."""
        self._add("strategy", name, cls)
        cls.registered_name = name

    def model(self, name: str, factory: Factory) -> None:
        """Register ``factory(num_classes, **options) -> nn.Module``."""
        self._add("model", name, factory)

    def dataset(self, name: str, factory: Factory) -> None:
        """Register ``factory(**options) -> data set``; ``split`` is one of the options."""
        self._add("dataset", name, factory)

    def loss(self, name: str, factory: Factory) -> None:
        """Register ``factory(**options) -> loss``, a ``dalib.losses.SegmentationLossFunction``."""
        self._add("loss", name, factory)

    def optimizer(self, name: str, factory: Factory) -> None:
        """Register ``factory(**options) -> make``, where ``make(parameters)`` returns a ``torch.optim.Optimizer``."""
        self._add("optimizer", name, factory)

    def schedule(self, name: str, factory: Factory) -> None:
        """Register ``factory(*, steps, **options) -> factor(step)``, which multiplies learning rates.

        ``steps`` is ``train.steps``, and ``step`` counts from 0.
        """
        taken = inspect.signature(factory).parameters
        if "steps" not in taken and all(p.kind is not p.VAR_KEYWORD for p in taken.values()):
            raise RegistryError(f"schedule {name!r}: its factory must take `steps`, the length of the run.")
        self._add("schedule", name, factory)

    def validator(self, name: str, factory: Factory) -> None:
        """Register ``factory(**options) -> validator``, a ``dalib.Validator``."""
        self._add("validator", name, factory)

    def get(self, kind: Kind, name: str) -> Factory:
        """Return the factory of a name; RegistryError suggests a known name and lists plugins that failed to load."""
        if (kind, name) not in self._entries:
            broken = "".join(f" Plugin {plugin!r} failed to load: {why}." for plugin, why in self.broken.items())
            raise RegistryError(f"there is no {kind} {name!r}.{suggest(name, self.names(kind))}{broken or _ELSEWHERE}")
        return self._entries[kind, name][0]

    def names(self, kind: Kind) -> list[str]:
        """Return the registered names of a kind, sorted."""
        return sorted(name for k, name in self._entries if k == kind)

    def owner(self, kind: Kind, name: str) -> str:
        """Return the plugin that registered a name."""
        return self._entries[kind, name][1]

    def load(self, plugin: str, module: object) -> None:
        """Call the hook ``dalib_register`` of a module; it registers all its names, or none if it fails."""
        before = dict(self._entries)
        self._manager.register(module, name=plugin)
        hooks = [i for i in self._manager.hook.dalib_register.get_hookimpls() if i.plugin_name == plugin]
        if not hooks:
            named = getattr(module, "__name__", repr(module))
            raise RegistryError(f"module {named!r} has no function `dalib_register` marked with @dalib.hookimpl.")
        self._owner = plugin
        try:
            hooks[0].function(registry=self)
        except BaseException:
            self._entries = before
            raise
        finally:
            self._owner = None
        self.loaded[plugin] = getattr(module, "__name__", repr(module))

    def _add(self, kind: Kind, name: str, what: Factory) -> None:
        owner = self._owner or what.__module__
        if (kind, name) in self._entries:
            raise DuplicateNameError(
                f"{kind} {name!r} is registered twice: by {self.owner(kind, name)!r} and by {owner!r}. "
                "Uninstall one of them, or rename what it registers."
            )
        self._entries[kind, name] = (what, owner)


_ELSEWHERE = (
    " What another package registers is there once that package is installed with pip, or its module named under "
    "`plugins:` of the recipe; `dalib plugins` lists what was found."
)


class DuplicateNameError(RegistryError):
    """Two packages register one name."""
