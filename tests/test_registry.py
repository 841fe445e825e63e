"""Names come from plugins; one that fails is said and stops nobody else."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from dalib import Registry, SegmentationLoss, Strategy, hookimpl
from dalib.core.optim import poly, sgd
from dalib.discovery import AUTOLOAD_OFF, default_registry, load_entry_points, load_module
from dalib.errors import RegistryError
from tests.tiny import TinyData, TinyModel


class Mine(Strategy):
    pass


def plugin(name, register):
    module = ModuleType(name)
    module.dalib_register = hookimpl(register)
    return module


@pytest.fixture
def modules(monkeypatch):
    """Make modules importable by name."""

    def add(name, register):
        monkeypatch.setitem(sys.modules, name, plugin(name, register))
        return EntryPoint(name, name, "dalib")

    return add


def registers(name):
    def dalib_register(registry):
        registry.strategy(name, Mine)

    return dalib_register


def test_what_a_plugin_registers_is_found_by_kind_and_name():
    def dalib_register(registry):
        registry.strategy("mine", Mine)
        registry.model("tiny", TinyModel)
        registry.dataset("tiny", TinyData)
        registry.loss("tiny", SegmentationLoss)
        registry.optimizer("tiny", sgd)
        registry.schedule("tiny", poly)

    registry = Registry()
    registry.load("third", plugin("third", dalib_register))
    assert (registry.get("strategy", "mine"), registry.get("model", "tiny")) == (Mine, TinyModel)
    assert registry.get("dataset", "tiny") is TinyData
    trains = [registry.get(kind, "tiny") for kind in ("loss", "optimizer", "schedule")]
    assert trains == [SegmentationLoss, sgd, poly]
    assert registry.owner("model", "tiny") == "third"
    assert Mine().name == "mine"


def test_an_unknown_name_is_refused_with_the_nearest_or_all():
    registry = Registry()
    registry.load("third", plugin("third", registers("mine")))
    with pytest.raises(RegistryError) as near:
        registry.get("strategy", "mien")
    assert str(near.value).startswith(
        "there is no strategy 'mien'. Did you mean 'mine'? What another package registers"
    )
    with pytest.raises(RegistryError) as far:
        registry.get("strategy", "zzz")
    assert str(far.value).startswith("there is no strategy 'zzz'. Known: mine. What another package registers is there")


def test_two_plugins_with_one_name_are_refused_with_both(modules, monkeypatch):
    entries = [modules("one", registers("mine")), modules("two", registers("mine"))]
    monkeypatch.setattr("dalib.discovery.entry_points", lambda group: entries)
    with pytest.raises(RegistryError) as caught:
        load_entry_points(Registry())
    assert str(caught.value) == (
        "strategy 'mine' is registered twice: by 'one' and by 'two'. Uninstall one of them, or rename what it "
        "registers."
    )


def test_a_broken_plugin_is_kept_with_its_error_named_when_asked_for_and_stops_nobody(modules, monkeypatch):
    def breaks(registry):
        registry.model("half", TinyModel)
        raise ZeroDivisionError("oops.")

    entries = [
        modules("z_good", registers("mine")),
        EntryPoint("absent", "no_such_module_at_all", "dalib"),
        modules("breaks", breaks),
    ]
    monkeypatch.setattr("dalib.discovery.entry_points", lambda group: entries)
    registry = Registry()
    load_entry_points(registry)
    assert registry.names("strategy") == ["mine"] and registry.names("model") == []
    assert registry.loaded == {"z_good": "z_good"}
    assert list(registry.broken) == ["absent", "breaks"]
    with pytest.raises(RegistryError) as caught:
        registry.get("model", "half")
    assert str(caught.value) == (
        "there is no model 'half'. Known: none. Plugin 'absent' failed to load: ModuleNotFoundError: No module named "
        "'no_such_module_at_all'. Plugin 'breaks' failed to load: ZeroDivisionError: oops."
    )


def test_entry_points_load_in_sorted_order(modules, monkeypatch):
    order = []
    entries = [modules(name, lambda registry, name=name: order.append(name)) for name in ("b", "c", "a")]
    monkeypatch.setattr("dalib.discovery.entry_points", lambda group: entries)
    load_entry_points(Registry())
    assert order == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (None, "module 'third' has no function `dalib_register` marked with @dalib.hookimpl."),
        (lambda registry: 1 / 0, "plugin module 'third' failed to load: ZeroDivisionError: division by zero."),
        (lambda regisrty: None, "plugin module 'third' failed to load: PluginValidationError: Plugin 'third' for hook"),
    ],
)
def test_a_module_of_a_recipe_that_cannot_register_is_named(register, message, monkeypatch):
    module = ModuleType("third") if register is None else plugin("third", register)
    monkeypatch.setitem(sys.modules, "third", module)
    with pytest.raises(RegistryError) as caught:
        load_module(Registry(), "third")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_module_of_a_recipe_is_loaded_once(modules):
    modules("third", registers("mine"))
    registry = Registry()
    load_module(registry, "third")
    load_module(registry, "third")
    assert registry.names("strategy") == ["mine"]


def test_the_default_registry_has_the_bundled_plugins_unless_discovery_is_off(monkeypatch):
    assert {"fda", "dacs", "supervised"} <= set(default_registry().names("strategy"))
    assert default_registry().owner("strategy", "fda") == "bundled"
    monkeypatch.setenv(AUTOLOAD_OFF, "1")
    off = default_registry.__wrapped__()
    assert off.names("strategy") == [] and "bisenet" in off.names("model") and "diorama" in off.names("dataset")
    assert {kind: off.names(kind) for kind in ("loss", "optimizer", "schedule")} == {
        "loss": ["cross_entropy", "dice", "lovasz"],
        "optimizer": ["adam", "adamw", "sgd"],
        "schedule": ["constant", "cosine", "poly", "step"],
    }
