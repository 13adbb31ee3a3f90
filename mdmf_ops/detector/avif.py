"""An AVIF without its EXIF, in which browsers look for nothing: `irot` and `imir` say how a picture is turned.

libavif refuses a picture for EXIF that is none, and Pillow takes all of its tags into memory before the first pixel.
"""

import io
from collections.abc import Iterator

from PIL.AvifImagePlugin import AvifImageFile

from mdmf_ops.detector.pieces import Piece, boxes

_KIND, _NO_KIND = b"Exif", b"skip"

_ITEMS = ((b"meta", b"iinf", b"infe"), (b"moov", b"trak", b"meta", b"iinf", b"infe"))
"""Boxes that lead to what is said of an item (ISO 14496-12): of a picture, and of those of an animation."""


class PlainAvif(AvifImageFile):
    """An AVIF of which no EXIF is read."""

    def __init__(self, file: io.BytesIO):
        super().__init__(io.BytesIO(_plain(file.getvalue())))


def _plain(content: bytes) -> bytes:
    """An AVIF of the same length and pixels, whose items of EXIF are of a kind that nobody knows."""
    view, parts, position = memoryview(content), [], 0
    for start in sorted(set(_exif_kinds(content))):
        parts += [view[position:start], _NO_KIND]
        position = start + len(_NO_KIND)
    return b"".join([*parts, view[position:]]) if parts else content  # no second copy while it is decoded


def _exif_kinds(content: bytes) -> Iterator[int]:
    """Where the kind of each item stands that is EXIF."""
    for path in _ITEMS:
        for item in _boxes_at(path, content, 0, len(content)):
            start = item.start + (8 if content[item.start : item.start + 1] == b"\2" else 10)  # by version
            if content[start : start + len(_KIND)] == _KIND:
                yield start


def _boxes_at(path: tuple[bytes, ...], content: bytes, start: int, end: int) -> Iterator[Piece]:
    """Boxes of a stretch that these kinds lead to, one in the other."""
    for kind, box_start, box_end in boxes(content[start:end]):
        box = Piece(kind, start + box_start, start + box_end)
        if kind == path[0] and len(path) == 1:
            yield box
        elif kind == path[0]:
            head_bytes = {b"meta": 4, b"iinf": 6 if content[box.start : box.start + 1] == b"\0" else 8}.get(kind, 0)
            yield from _boxes_at(path[1:], content, box.start + head_bytes, box.end)
