"""Streams of images and the batch that holds them."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalib.errors import StackError


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One named set of images with what belongs to them.

    Fields:
        image: (B, 3, H, W) float in [0, 1], RGB, not normalised.
        label: (B, H, W) int64 train ids, 255 = ignore.
        weight: (B, H, W) float >= 0, the weight of each pixel in the loss.
        index: (B,) position of each image in its dataset.
        extra: further maps (B, H, W) by name, such as depth or a confidence, of any type.

    In declarations and in ``Batch.write`` a map of ``extra`` is a field like the others, ``"source.depth"``;
    ``"source.extra"`` stands for all of them, whatever their names.
    """

    image: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.image.shape[-2], self.image.shape[-1]

    def fields(self) -> dict[str, Tensor]:
        """Return the fields that are present, by name, those of ``extra`` included."""
        values = {name: getattr(self, name) for name in OWN_FIELDS}
        return {name: value for name, value in values.items() if value is not None} | dict(self.extra)

    def replace(self, **fields: Any) -> "Stream":
        """Return the stream with other fields; a name that is none of its own is a map of ``extra``."""
        fields |= fields.pop("extra", {})
        own = {name: fields.pop(name) for name in OWN_FIELDS if name in fields}
        return dataclasses.replace(self, **own, extra={**self.extra, **fields})

    def to(self, device: torch.device) -> "Stream":
        """Return the stream on a device."""
        return self.replace(**{name: value.to(device, non_blocking=True) for name, value in self.fields().items()})


OWN_FIELDS = tuple(f.name for f in dataclasses.fields(Stream) if f.name != "extra")
"""The fields of a stream beside its ``extra`` maps."""


def covers(declared: Collection[str], entry: str) -> bool:
    """Return whether a declaration such as ``{"source.image", "source.extra"}`` names the ``stream.field`` entry."""
    stream, _, name = entry.partition(".")
    return entry in declared or (name not in OWN_FIELDS and f"{stream}.extra" in declared)


@dataclass(frozen=True)
class Permission:
    """What a strategy may do with a batch while one of its hooks runs.

    Fields:
        reads: streams; None: any. writes: ``"stream.field"`` entries, in ``pre_batch``.
    """

    strategy: str
    hook: str
    reads: frozenset[str] | None
    writes: frozenset[str]


class Batch(Mapping[str, Stream]):
    """The streams of one micro-batch, by name: ``source``, ``target`` and those that strategies add.

    A stream never changes in place: ``write`` replaces it, so a stream that an earlier strategy kept stays as it was.

    Attributes:
        writers: the strategy that wrote each field last, by stream and field.
    """

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self._streams = dict(streams)
        self._versions = dict.fromkeys(self._streams, 0)
        self._permission: Permission | None = None  # while a hook runs
        self.writers: dict[str, dict[str, str]] = {}

    def __getitem__(self, name: str) -> Stream:
        permission = self._permission
        if permission and permission.reads is not None and name in self._streams and name not in permission.reads:
            raise StackError(
                f"strategy {permission.strategy!r} reads the stream {name!r} without declaring it; "
                f'add "{name}.image", or the field that it reads, to its `requires`.'
            )
        try:
            return self._streams[name]
        except KeyError:
            raise StackError(
                f"stream {name!r} is not in the batch; it holds {', '.join(self._streams)}. A strategy names what it "
                "reads in `requires`; a stream that none reads is not loaded."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._streams

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def version(self, name: str) -> int:
        """Return how often the stream was written; outputs cached for another version are stale."""
        return self._versions[name]

    def write(self, name: str, **fields: Any) -> None:
        """Replace fields of a stream, e.g. ``batch.write("source", image=jittered)``; StackError if undeclared."""
        self._check(name, fields)
        self._streams[name] = self[name].replace(**fields)
        self._versions[name] += 1

    def settle(self, name: str, **fields: Any) -> None:
        """Replace fields where outputs that were cached for the stream stay valid."""
        self._streams[name] = self._streams[name].replace(**fields)

    def add(self, name: str, stream: Stream) -> None:
        """Add a stream under a new name; StackError if the name is taken or the stream undeclared."""
        if name in self._streams:
            raise StackError(f"stream {name!r} is already in the batch; use batch.write to change it.")
        self._check(name, stream.fields())
        self._streams[name] = stream
        self._versions[name] = 0

    def permit(self, permission: "Permission | None") -> None:
        """Let a hook read and change no more than this; None lifts the limits."""
        self._permission = permission

    def versions(self) -> list[tuple[str, Tensor, int]]:
        """Return every tensor with its name and how often it has been changed in place."""
        return [
            (f"{name}.{field}", tensor, tensor._version)
            for name, stream in self._streams.items()
            for field, tensor in stream.fields().items()
        ]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch({name: stream.to(device) for name, stream in self._streams.items()})

    def _check(self, name: str, fields: Mapping[str, Any]) -> None:
        if self._permission is None:
            return
        strategy, hook, writes = self._permission.strategy, self._permission.hook, self._permission.writes
        for field in sorted(fields):
            if hook != "pre_batch":
                raise StackError(
                    f"strategy {strategy!r} changed {name}.{field} in its hook {hook!r}; streams change in `pre_batch` "
                    "alone."
                )
            if not covers(writes, f"{name}.{field}"):
                raise StackError(
                    f"strategy {strategy!r} changed {name}.{field} without declaring it; "
                    f'add "{name}.{field}" to its `writes` (or `provides`, for a stream of its own).'
                )
            self.writers.setdefault(name, {})[field] = strategy
