"""What a JPEG claims to be, read before a decoder takes memory and time for it."""

import struct

SIGNATURE = b"\xff\xd8\xff"

_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # Huffman tables, a reserved one, arithmetic coding
_SCAN, _END = 0xDA, 0xD9


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) of the frame that a decoder will find first, of any coding; None where there is none.

    Markers are searched for as decoders do, over stuffing and over garbage between them.
    """
    position = 2
    while (position := data.find(0xFF, position)) >= 0 and position + 9 <= len(data):
        position += 1
        marker = data[position]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 4)
            return height, width
        if marker in (_SCAN, _END):
            return None
        if marker not in _ALONE and marker not in (0x00, 0xFF):
            position += 1 + int.from_bytes(data[position + 1 : position + 3], "big")
    return None


def scan_count(data: bytes) -> int:
    """How many scans a JPEG has at most; each one makes a decoder of progressive ones go over the whole picture."""
    return data.count(bytes((0xFF, _SCAN)))
