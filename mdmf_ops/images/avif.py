"""An AVIF without its EXIF, in which browsers look for nothing: `irot` and `imir` say how a picture is turned.

libavif refuses a picture for EXIF that is none, and Pillow takes all of its tags into memory before the first pixel.
"""

import io
from collections.abc import Iterator
from itertools import islice

from PIL.AvifImagePlugin import AvifImageFile

from mdmf_ops.images.metadata import MAX_PIECES
from mdmf_ops.images.pieces import boxes

_NO_KIND = b"skip"

# Boxes in which those of items lie, by the one that they are in: of a picture, and of those of an animation.
_WITHIN = {b"": (b"meta", b"moov"), b"moov": (b"trak",), b"trak": (b"meta",), b"meta": (b"iinf",), b"iinf": (b"infe",)}


class PlainAvif(AvifImageFile):
    """An AVIF of which no EXIF is read."""

    def __init__(self, file: io.BytesIO):
        super().__init__(io.BytesIO(_plain(file.getvalue())))


def _plain(content: bytes) -> bytes:
    """An AVIF of the same length and pixels, whose items of EXIF are of a kind that nobody knows."""
    view, parts, position = memoryview(content), [], 0
    for box, start in islice(_boxes(view), MAX_PIECES):
        # Behind version, flags and numbers (ISO 14496-12).
        place = start + (8 if view[start : start + 1] == b"\2" else 10)
        if box == b"infe" and view[place : place + len(_NO_KIND)] == b"Exif":
            parts += [view[position:place], _NO_KIND]
            position = place + len(_NO_KIND)
    return b"".join([*parts, view[position:]]) if parts else content  # no second copy while it is decoded


def _boxes(inside: memoryview, outer: bytes = b"", start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Boxes on the way to those of items: the same bytes elsewhere may be numbers of items, or pixels.

    Args:
        inside: of a box, the file itself at first.
        outer: the kind of that box.
        start: where it stands in the file.

    Yields:
        Kind, empty where it does not belong there, and where its data stand in the file.
    """
    for kind, first, end in boxes(inside):
        known = kind if kind in _WITHIN[outer] else b""
        yield known, start + first
        if known and known in _WITHIN:
            if known == b"meta":
                first += 4  # version and flags
            elif known == b"iinf":
                first += 6 if inside[first : first + 1] == b"\0" else 8  # and how many items there are
            yield from _boxes(inside[first:end], known, start + first)
