"""Files of tensors from strangers: torch's format, without the objects in it that would run code."""

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_tensors(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, on the CPU: tensors, primitives and containers of them.

    Raises:
        Exception: of any kind; a damaged file fails anywhere in torch's reader.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which torch never does, so it could unfold to any size.")
    return torch.load(path, map_location="cpu", weights_only=True)
