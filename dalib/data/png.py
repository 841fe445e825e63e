"""PNG files taken apart, checked, and put together again so that no decoder can fail on them.

torchvision's decoder ends the process (SIGSEGV) when libpng meets an error in the rows of a picture: a bad checksum, a
damaged or short stream, an unknown filter. So nothing reaches it but what this module has written: the header, the
palette, the orientation, and rows that were inflated, counted, and stored without compression.
Format: https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dalib.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, INDEXED = 0, 3  # colour types

_CHANNELS = {GREY: 1, 2: 3, INDEXED: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {GREY: (1, 2, 4, 8, 16), 2: (8, 16), INDEXED: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WHOLE = ((0, 0, 1, 1),)  # passes over the picture: first row, first column, every how many rows and columns
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_FILTERS = 5
_KEPT = (b"IHDR", b"PLTE", b"eXIf")  # besides the rows, in the order they are written


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG whose chunks are whole; ``file`` is for messages.

    Fields:
        depth: bits of a sample: 1, 2, 4, 8 or 16.
        color_type: as the format numbers them, such as GREY and INDEXED.
        chunks: header, palette and orientation by kind.
        packed: the compressed rows.
    """

    file: Path
    height: int
    width: int
    depth: int
    color_type: int
    interlaced: bool
    chunks: dict[bytes, bytes]
    packed: bytes

    def rebuilt(self) -> bytearray:
        """Return the same picture as a new file, with nothing in it that was not checked; takes memory for its size.

        Raises:
            DataError: the rows are damaged, or other than the header says.
        """
        stored = zlib.compress(self._rows(), level=0)
        written = [(kind, self.chunks[kind]) for kind in _KEPT if kind in self.chunks]
        chunks = (_chunk(kind, body) for kind, body in (*written, (b"IDAT", stored), (b"IEND", b"")))
        return bytearray().join((SIGNATURE, *chunks))

    def _rows(self) -> bytes:
        """Inflate the rows, each after the number of its filter, and check how many they are."""
        passes = [(rows, stride) for rows, stride in self._passes() if rows and stride > 1]
        expected = sum(rows * stride for rows, stride in passes)
        inflater = zlib.decompressobj()
        try:
            rows = inflater.decompress(self.packed, expected + 1)
        except zlib.error as error:
            raise _damaged(self.file, str(error).rpartition(": ")[2]) from None
        if len(rows) != expected or not inflater.eof:
            raise _damaged(self.file, f"rows of {expected} bytes were expected, and it holds others")
        start = 0
        for count, stride in passes:
            end = start + count * stride
            if max(rows[start:end:stride]) >= _FILTERS:
                raise _damaged(self.file, "a row's filter is unknown")
            start = end
        return rows

    def _passes(self) -> Iterator[tuple[int, int]]:
        """Yield how many rows each pass has, and the bytes of a row with its filter's number."""
        bits = _CHANNELS[self.color_type] * self.depth
        for top, left, down, right in _ADAM7 if self.interlaced else _WHOLE:
            rows, columns = -((top - self.height) // down), -((left - self.width) // right)
            yield rows, 1 + (columns * bits + 7) // 8


def parse_png(file: Path, data: bytes) -> Png:
    """Take a PNG apart without inflating anything.

    Raises:
        DataError: it is cut short, a checksum differs, or its header is none.
    """
    chunks: dict[bytes, bytes] = {}
    packed = bytearray()
    for kind, body in _chunks(file, data):
        if kind == b"IDAT":
            packed += body
        elif kind in _KEPT:
            chunks.setdefault(kind, bytes(body))
    try:
        width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        whole = min(width, height) > 0 and depth in _DEPTHS[color_type] and interlaced < 2
    except (KeyError, struct.error):
        whole = False
    if not whole:
        raise _damaged(file, "its header is none")
    return Png(file, height, width, depth, color_type, bool(interlaced), chunks, bytes(packed))


def _chunks(file: Path, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of each chunk up to the end."""
    view, position, kind = memoryview(data), len(SIGNATURE), b""
    while kind != b"IEND":
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        checksum = int.from_bytes(view[end - 4 : end], "big")
        if end > len(data) or zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise DataError(
                f"{file}: expected a whole PNG, found it truncated or damaged at byte {position}; replace it."
            )
        kind = bytes(view[position + 4 : position + 8])
        yield kind, view[position + 8 : end - 4]
        position = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)))


def _damaged(file: Path, reason: str) -> DataError:
    return DataError(f"{file}: expected a whole PNG, found it damaged ({reason}); replace it.")
