"""An AVIF without its EXIF, in which browsers look for nothing: `irot` and `imir` say how a picture is turned.

libavif refuses a picture for EXIF that is none, and Pillow takes all of its tags into memory before the first pixel.
"""

import io
import re

from PIL.AvifImagePlugin import AvifImageFile

from mdmf_ops.images.pieces import boxes

_EXIF_ITEM = re.compile(rb"infe(?:\x02.{7}|\x03.{9})Exif", re.DOTALL)
"""The box of an item that is EXIF (ISO 14496-12): between its version and its kind lie flags and numbers."""

_NO_KIND = b"skip"


class PlainAvif(AvifImageFile):
    """An AVIF of which no EXIF is read."""

    def __init__(self, file: io.BytesIO):
        super().__init__(io.BytesIO(_plain(file.getvalue())))


def _plain(content: bytes) -> bytes:
    """An AVIF of the same length and pixels, whose items of EXIF are of a kind that nobody knows."""
    view, parts, position = memoryview(content), [], 0
    for box in boxes(content):
        if box.kind in (b"meta", b"moov"):  # of a picture, and of those of an animation
            for item in _EXIF_ITEM.finditer(content, box.start, box.end):
                parts += [view[position : item.end() - len(_NO_KIND)], _NO_KIND]
                position = item.end()
    return b"".join([*parts, view[position:]]) if parts else content  # no second copy while it is decoded
