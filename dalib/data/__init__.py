"""Datasets: the protocol, readers of the published formats, and a reader of one's own folders."""

from typing import TYPE_CHECKING, Any

from dalib.hooks import hookimpl

if TYPE_CHECKING:
    from dalib.data.counts import label_counts
    from dalib.data.dataset import Draw, SegmentationDataset
    from dalib.registry import Registry

__all__ = ["Draw", "SegmentationDataset", "dalib_register", "label_counts"]


@hookimpl
def dalib_register(registry: "Registry") -> None:
    """Register the bundled datasets."""
    from dalib.data.acdc import acdc
    from dalib.data.bdd100k import bdd100k
    from dalib.data.camvid import camvid
    from dalib.data.carla import carla
    from dalib.data.cityscapes import cityscapes
    from dalib.data.dark_zurich import dark_zurich
    from dalib.data.diorama import diorama
    from dalib.data.folder import folder
    from dalib.data.gta5 import gta5
    from dalib.data.synthia import synthia

    readers = (acdc, bdd100k, camvid, carla, cityscapes, dark_zurich, diorama, folder, gta5, synthia)
    for reader in readers:
        registry.dataset(reader.__name__, reader)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dalib.data import counts, dataset

    return getattr(counts if name == "label_counts" else dataset, name)
