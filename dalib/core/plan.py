"""Checks of a stack before the first step, which follow the streams that each strategy reads and writes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dalib.core.hookspecs import HOOKS
from dalib.core.stack import Stack, calling
from dalib.core.strategy import Strategy
from dalib.data.batch import covers
from dalib.errors import StackError

Size = tuple[int, int] | None  # (H, W); None = not known yet

GIVEN = ("image", "label", "index", "extra")  # by a stream's data, unless it is known better


@dataclass(frozen=True)
class PlannedStrategy:
    """One row of a plan: a strategy, its hooks, its backward pass (``group``) and the streams' sizes after it."""

    strategy: Strategy
    hooks: tuple[str, ...]
    group: int | None
    sizes: dict[str, Size]


@dataclass(frozen=True)
class Plan:
    """The rows of a valid stack, in order, and warnings about what looks unintended."""

    rows: tuple[PlannedStrategy, ...]
    warnings: tuple[str, ...]


def make_plan(
    stack: Stack,
    streams: Mapping[str, Size],
    outputs: Collection[str] | None = None,
    fields: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """Check a stack by following its streams; StackError at the first strategy that cannot work.

    Args:
        streams: the loader's streams, such as ``source`` and ``target``, with their (H, W) where known.
        outputs: names of what the model gives in training, tapped layers included; None: not known.
        fields: of each stream, where its data were seen; else images with labels and any further maps are expected.
    """
    sizes: dict[str, Size] = dict(streams)
    provided = {f"{s}.{field}": "the data" for s in streams for field in (fields or {}).get(s, GIVEN)}
    provided.pop("target.label", None)  # never reaches training, so no strategy can require it
    read: list[tuple[Strategy, str]] = []
    rows, warnings = [], []
    for position, strategy in enumerate(stack.strategies):
        _check_required(stack.strategies, position, provided, streams)
        _check_same_size(strategy, sizes)
        changes = strategy in stack.implementing("pre_batch")
        if changes:
            warnings += [_stale(reader, field, strategy) for reader, field in read if covers(strategy.writes, field)]
            warnings += _size_warnings(strategy, sizes)
            read += [(strategy, field) for field in sorted(strategy.requires - strategy.writes)]
            sizes |= _sizes_after(strategy, sizes)
        _provide(strategy, provided, sizes)
        rows.append(PlannedStrategy(strategy, _hooks(stack, strategy), _group(stack, strategy), dict(sizes)))
    _check_outputs(stack, sizes, outputs)
    for strategy in (s for s in stack.strategies if s not in stack.implementing("pre_batch")):
        warnings += _size_warnings(strategy, sizes)  # losses run after all pre_batch hooks
    return Plan(tuple(rows), tuple(warnings))


def _known(sizes: Mapping[str, Size]) -> dict[str, tuple[int, int]]:
    return {name: size for name, size in sizes.items() if size}


def _sizes_after(strategy: Strategy, sizes: Mapping[str, Size]) -> Mapping[str, Size]:
    with calling(strategy, "sizes"):
        try:
            return strategy.sizes(_known(sizes))
        except KeyError as error:
            if error.args[0] in sizes:  # it is not known yet, as that of a data set that is not resized
                return {}
            raise


def _size_warnings(strategy: Strategy, sizes: Mapping[str, Size]) -> list[str]:
    with calling(strategy, "check_sizes"):
        return list(strategy.check_sizes(_known(sizes)))


def _check_required(
    strategies: Sequence[Strategy], position: int, provided: Mapping[str, str], streams: Mapping[str, Size]
) -> None:
    strategy = strategies[position]
    # A field to write, such as a weight, need not exist yet, nor any one map of `extra`; its stream must.
    maps = frozenset(field for field in strategy.requires if field.endswith(".extra"))
    needed = (strategy.requires - maps) | {f"{field.split('.')[0]}.image" for field in strategy.writes | maps}
    for field in sorted(field for field in needed if not covers(provided, field)):
        stream = field.split(".")[0]
        later = [other.name for other in strategies[position + 1 :] if field in other.provides]
        if later:
            advice = f"{later[0]!r} provides it later in the list; move {strategy.name!r} after {later[0]!r}."
        elif field == "target.label":
            advice = "Labels of the target never reach training; use a teacher's pseudo-labels."
        elif field == f"{stream}.label" and stream in streams:
            advice = (
                f"No image of the {stream} data that was looked at has a labelled pixel. Check its labels, its split "
                "and its label map; `dalib doctor` counts the pixels of each class."
            )
        elif stream in ("source", "target") and stream not in streams:
            advice = f"There is no {stream} data; name it under data.{stream} of the recipe (or pass it to fit)."
        else:
            known = sorted(name for name in provided if not name.endswith(".extra"))
            advice = f"Nothing provides it; the stack has {', '.join(known)}."
        raise StackError(f"strategy {strategy.name!r} needs {field}. {advice}")


def _check_same_size(strategy: Strategy, sizes: Mapping[str, Size]) -> None:
    known = {name: sizes[name] for name in sorted(strategy.same_size) if sizes.get(name)}
    if len(set(known.values())) > 1:
        found = ", ".join(f"{name} {size[0]}x{size[1]}" for name, size in known.items() if size)
        raise StackError(
            f"strategy {strategy.name!r} needs streams of one size; it would get {found} (H x W). "
            "Crop them before it, e.g. {use: augment, streams: [source, target], crop: [H, W]}, or set data.*.size."
        )


def _provide(strategy: Strategy, provided: dict[str, str], sizes: dict[str, Size]) -> None:
    before = {field.split(".")[0]: owner for field, owner in provided.items()}
    for field in sorted(strategy.provides):
        if owner := before.get(field.split(".")[0]):
            raise StackError(f"{field} is provided twice: by {owner!r} and by {strategy.name!r}; drop one.")
        provided[field] = strategy.name
        shared = [sizes[name] for name in sorted(strategy.same_size) if name in sizes]
        sizes.setdefault(field.split(".")[0], shared[0] if shared else None)


def _check_outputs(stack: Stack, sizes: Mapping[str, Size], given: Collection[str] | None) -> None:
    for strategy in stack.strategies:
        for entry in sorted((strategy.outputs or frozenset()) | (strategy.critic_outputs or frozenset())):
            stream, _, name = entry.partition(".")
            if stream not in sizes:
                raise StackError(
                    f"strategy {strategy.name!r} reads the output {entry}, but nothing provides the stream {stream!r}; "
                    f"there are {', '.join(sizes)}."
                )
            if given is not None and name not in given:
                raise StackError(
                    f"strategy {strategy.name!r} reads the output {entry}, which this model does not give; in training "
                    f"it gives {', '.join(sorted(given))}. The output of any layer is read through ctx.tap."
                )


def _stale(reader: Strategy, field: str, writer: Strategy) -> str:
    return (
        f"strategy {reader.name!r} reads {field} before {writer.name!r} changes it, so it sees the unchanged one; "
        f"move {reader.name!r} after {writer.name!r} if that is not meant."
    )


def _hooks(stack: Stack, strategy: Strategy) -> tuple[str, ...]:
    return tuple(hook for hook in HOOKS if strategy in stack.implementing(hook))


def _group(stack: Stack, strategy: Strategy) -> int | None:
    return next((i for i, members in enumerate(stack.groups) if strategy in members), None)
