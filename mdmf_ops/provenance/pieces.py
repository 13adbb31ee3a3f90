"""In how many pieces the official C2PA library would take a file apart: it sets itself no limit.

Its time grows with the pieces of most formats, but with the square of an AVIF's boxes; and a directory of a TIFF it
reads as often as another points there, so that 800 kB may hold minutes of work.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, repeat

from mdmf_ops.images.metadata import MAX_PIECES
from mdmf_ops.images.pieces import TIFF_LAYOUTS, container_of, jpeg_segments, png_chunks, riff_chunks
from mdmf_ops.provenance.exif import EXIF_DIRECTORY

_MAX_BOXES = 2000
"""Of one AVIF, those within others included: the library takes some 20 ms for them. Real ones have under 100."""

# Boxes in which the library looks for further ones.
_CONTAINERS = frozenset(b"moov trak mdia minf stbl moof traf edts udta dinf tref treg mvex mfra meta schi".split())
_SUB_DIRECTORIES, _GPS_DIRECTORY = 0x014A, 0x8825


def in_few_pieces(content: bytes) -> bool:
    """Whether a file is in so few pieces that the library has gone over them in a moment."""
    container, most = container_of(content), MAX_PIECES
    if container == "JPEG":
        pieces = jpeg_segments(content)
    elif container == "PNG":
        pieces = png_chunks(content)
    elif container == "WEBP":
        pieces = riff_chunks(content)
    elif container == "TIFF":
        pieces = _entries(content)
    else:
        pieces, most = _boxes(content), _MAX_BOXES
    return sum(1 for _ in islice(pieces, most + 1)) <= most


def _boxes(content: bytes) -> Iterator[bytes]:
    """Every box, outermost or not; without end where two readers may not agree on where the next one starts."""
    regions = [(0, len(content))]
    while regions:
        position, end = regions.pop()
        while position + 8 <= end:
            size_bytes, kind = struct.unpack_from(">I4s", content, position)
            head_bytes = 8
            if size_bytes == 0:  # to the end of the file
                size_bytes = len(content) - position
            elif size_bytes == 1:  # too large for 32 bits: 64 follow
                size_bytes, head_bytes = int.from_bytes(content[position + 8 : position + 16], "big"), 16
            if size_bytes < head_bytes:
                yield from repeat(kind)
            yield kind
            if kind in _CONTAINERS:
                inside = (position + head_bytes, min(position + size_bytes, len(content)))
                regions.append(inside)
                if kind == b"meta":  # version and flags come first, but not in QuickTime's
                    regions.append((inside[0] + 4, inside[1]))
            position += size_bytes


def _entries(content: bytes) -> Iterator[int]:
    """Entries of the first directory of a TIFF, and the directories that it points to with theirs, as often as it does.

    A type says nothing here: the library takes every place of a directory to be in 32 bits, but one that stands alone.
    """
    order, offset_format, count_format = TIFF_LAYOUTS[content[:4]]
    inline_bytes = struct.calcsize(offset_format)
    entry = struct.Struct(f"{order}HH{offset_format}{inline_bytes}s")

    def number(number_format: str, block: bytes, at: int) -> int:
        return struct.unpack_from(order + number_format, block, at)[0]

    def directory(tag: int, number_format: str, block: bytes, at: int) -> Iterator[int]:
        yield tag
        with suppress(struct.error, OverflowError):  # it lies outside of the file
            yield from repeat(tag, number(count_format, content, number(number_format, block, at)))

    with suppress(struct.error, OverflowError):
        first = number(offset_format, content, inline_bytes)
        start = first + struct.calcsize(count_format)
        for i in range(number(count_format, content, first)):
            tag, _kind, values, value = entry.unpack_from(content, start + i * entry.size)
            yield tag
            if tag in (EXIF_DIRECTORY, _GPS_DIRECTORY):
                yield from directory(tag, offset_format, value, 0)
            elif tag == _SUB_DIRECTORIES:
                block, at = (value, 0) if 4 * values <= inline_bytes else (content, number(offset_format, value, 0))
                for j in range(values):
                    yield from directory(tag, "I", block, at + 4 * j)
