"""The pieces of an image file, walked without decoding: segments, chunks, boxes, blocks, directory entries.

Every walk goes forward only and ends with the file, whatever the sizes in it say; who walks decides how far. What is
cut off or damaged ends a walk: the decoder will say so.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

EXIF_NAME = b"Exif\0\0"

# Any marker of a JPEG but a stuffed 0xFF and those that stand alone within a scan: RSTn, TEM.
_JPEG_MARKER = re.compile(rb"\xff(?=[\x02-\xcf\xd8-\xfe])")
_GIF_BLOCK = re.compile(rb"[!,;]")
JPEG_START, JPEG_END, JPEG_SCAN, JPEG_APP1, JPEG_COMMENT = 0xD8, 0xD9, 0xDA, 0xE1, 0xFE

# By the first bytes of a TIFF or EXIF block: its order of bytes, the formats of an offset and of a directory's count.
TIFF_LAYOUTS = {
    b"II*\0": ("<", "I", "H"),
    b"MM\0*": (">", "I", "H"),
    b"II+\0": ("<", "Q", "Q"),  # BigTIFF
    b"MM\0+": (">", "Q", "Q"),
}

_STARTS = (
    *((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"), (b"BM", "BMP")),
    *((start, "TIFF") for start in TIFF_LAYOUTS),
)

# Bytes of a value of each type in a directory.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TEXT_OR_BYTES = (1, 2, 6, 7)


class Piece(NamedTuple):
    """One piece of a file.

    Attributes:
        kind: marker, chunk type, box type or tag.
        start, end: where its data lie, as it says itself: `end` may be beyond the file.
    """

    kind: int | bytes
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return self.end - self.start

    @property
    def marker_start(self) -> int:
        """Of a JPEG's segment: where its marker stands."""
        return self.start - (2 if self.kind in (JPEG_START, JPEG_END) else 4)


class Entry(NamedTuple):
    """One entry of a TIFF directory.

    Attributes:
        tag: what it is about.
        start, end: where its values lie, as it says itself: `end` may be beyond the file.
        numbers: how many values it has that are neither text nor bytes.
    """

    tag: int
    start: int
    end: int
    numbers: int


def container_of(content: bytes) -> str | None:
    """What a file is in pieces of, by its first bytes: JPEG, PNG, WEBP, GIF, BMP, TIFF, or ISO for the boxes of AVIFs,
    HEICs and videos; None for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        return "ISO"
    return next((name for start, name in _STARTS if content.startswith(start)), None)


def jpeg_segments(content: bytes) -> Iterator[Piece]:
    """Marker segments of a JPEG's first picture, those between its scans included, and its end mark."""
    position = 2
    while found := _JPEG_MARKER.search(content, position):
        start = found.end() + 1
        marker = content[found.end()]
        if marker in (JPEG_START, JPEG_END):
            position = start
        else:
            position = start + max(int.from_bytes(content[start : start + 2], "big"), 2)
            start += 2
        yield Piece(marker, start, position)
        if marker == JPEG_END:
            return


def png_chunks(content: bytes) -> Iterator[Piece]:
    """Chunks of a PNG, up to its end."""
    position = 8
    while position + 8 <= len(content):
        size_bytes, kind = struct.unpack_from(">I4s", content, position)
        yield Piece(kind, position + 8, position + 8 + size_bytes)
        if kind == b"IEND":
            return
        position += 12 + size_bytes


def riff_chunks(content: bytes, position: int = 12) -> Iterator[Piece]:
    """Chunks of a WebP; those of a frame, where `position` is in one."""
    while position + 8 <= len(content):
        kind, size_bytes = struct.unpack_from("<4sI", content, position)
        yield Piece(kind, position + 8, position + 8 + size_bytes)
        position += 8 + size_bytes + size_bytes % 2


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height in px that the first chunk of a WebP says; zeros where it says none."""
    kind, head = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + bits % (1 << 14), 1 + (bits >> 14) % (1 << 14)
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") % (1 << 14), int.from_bytes(head[8:10], "little") % (1 << 14)
    return 0, 0


def boxes(content: bytes) -> Iterator[Piece]:
    """Outermost boxes of an ISO media file; one whose size is cut off has no kind, and ends beyond the file."""
    position = 0
    while position < len(content):
        try:
            size_bytes, kind = struct.unpack_from(">I4s", content, position)
            head_bytes = 8
            if size_bytes == 0:  # to the end of the file
                size_bytes = len(content) - position
            elif size_bytes == 1:  # too large for 32 bits: 64 follow
                [size_bytes] = struct.unpack_from(">Q", content, position + 8)
                head_bytes = 16
        except struct.error:
            size_bytes, kind, head_bytes = 16, b"", 16
        end = position + max(size_bytes, head_bytes)
        yield Piece(kind, position + head_bytes, end)
        position = end


def gif_blocks(content: bytes) -> Iterator[Piece]:
    """Extensions that come before the first picture of a GIF, each begun by an empty piece, and their blocks of data.

    Stray bytes between them, which readers skip, are pieces of no kind.
    """
    if len(content) < 13:
        return
    position = 13 + (3 << (content[10] % 8 + 1) if content[10] & 0x80 else 0)
    while found := _GIF_BLOCK.search(content, position):
        yield Piece(b"", position, found.start())
        position = found.end()
        if found[0] != b"!":
            return
        kind, position = content[position : position + 1], position + 1
        yield Piece(kind, position, position)
        while position < len(content) and (size_bytes := content[position]):
            yield Piece(kind, position + 1, position + 1 + size_bytes)
            position += 1 + size_bytes
        position += 1
    yield Piece(b"", position, len(content))


def tiff_entries(content: bytes, start: int | None = None) -> Iterator[Entry]:
    """Entries of a directory of a TIFF or EXIF block: of the first one, where it is not said where another starts."""
    if content[:4] not in TIFF_LAYOUTS:
        return
    order, offset_format, count_format = TIFF_LAYOUTS[content[:4]]
    offset, count = struct.Struct(order + offset_format), struct.Struct(order + count_format)
    entry = struct.Struct(f"{order}HH{offset_format}{offset_format}")
    with suppress(struct.error, OverflowError):  # it lies outside of the block, or of any that could be
        if start is None:
            [start] = offset.unpack_from(content, offset.size)
        [entries] = count.unpack_from(content, start)
        first = start + count.size
        for at in range(first, first + entries * entry.size, entry.size):
            tag, kind, values, place = entry.unpack_from(content, at)
            size_bytes = values * _VALUE_BYTES.get(kind, 0)
            if size_bytes <= offset.size:
                place = at + entry.size - offset.size
            yield Entry(tag, place, place + size_bytes, 0 if kind in _TEXT_OR_BYTES else values)


def tiff_number(content: bytes, entry: Entry) -> int:
    """The value of an entry that has one whole number."""
    return int.from_bytes(content[entry.start : entry.end], "little" if content.startswith(b"II") else "big")
