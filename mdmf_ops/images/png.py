"""The picture of a PNG as browsers show it, without what else its file holds.

Pillow fails for damage to texts, profiles and resolutions, of which no pixel is made.
"""

import io
import struct
import zlib
from itertools import takewhile

from PIL.PngImagePlugin import PngImageFile

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.pieces import EXIF_NAME, Piece, png_chunks

_HEAD_BYTES = 33
"""Of a PNG's signature and its first chunk."""

_COUNTED = (b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL")

_GREY, _COLOUR, _INDEXED = 0, 2, 3
_TRANSPARENT_BYTES = {_GREY: 2, _COLOUR: 6}
"""What tRNS holds at least, by colour type."""

_MAX_COLOURS, _MAX_FRAMES = 256, (1 << 31) - 1


class PlainPng(PngImageFile):
    """A PNG of which Pillow opens nothing but the picture that is shown. Orientation is EXIF's alone.

    Attributes:
        plain: the file of `_plain`.
    """

    def __init__(self, file: io.BytesIO):
        self.plain, exif = _plain(file.getvalue())
        super().__init__(io.BytesIO(self.plain))
        self.info["exif"] = exif


def _plain(content: bytes) -> tuple[bytes, bytes]:
    """A PNG of nothing but its picture, and the EXIF block, or nothing.

    It ends as the file does: without an end mark where that has none. Damage to what pixels are made of is left in it,
    except that browsers leave out a tRNS that is no good.

    Args:
        content: the whole file, of not too many chunks.

    Raises:
        ImageError: an animation's first frame is another picture: who knows animations never shows this one.
        ValueError: it does not begin with its IHDR, or has another; or it is indexed, and has no palette.
    """
    view, chunks = memoryview(content), list(png_chunks(content))
    if len(content) < _HEAD_BYTES or [n for n, chunk in enumerate(chunks) if chunk.kind == b"IHDR"] != [0]:
        raise ValueError("a PNG begins with its IHDR, and has no other")
    first = next((number for number, chunk in enumerate(chunks) if chunk.kind == b"IDAT"), len(chunks))
    parts: list[bytes | memoryview] = [content[:8]]
    found: dict[bytes, Piece] = {}  # of those that count once, the first that is good
    for chunk in chunks[:first]:
        if chunk.kind in (b"IHDR", b"PLTE"):
            parts.append(view[chunk.start - 8 : chunk.end + 4])
        if chunk.kind in _COUNTED and chunk.kind not in found and _is_good(content, chunk, b"PLTE" in found):
            found[chunk.kind] = chunk
    if content[25] == _INDEXED and b"PLTE" not in found:
        raise ValueError("an indexed PNG without a palette")  # Pillow makes one up for a part of it
    if b"tRNS" in found:
        parts.append(_chunk(b"tRNS", _transparency(content, found[b"tRNS"])))
    data = list(takewhile(lambda chunk: chunk.kind == b"IDAT", chunks[first:]))
    if data and b"acTL" in found and (b"fcTL" not in found or any(chunk.kind == b"fdAT" for chunk in chunks[:first])):
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, "an animation that does not begin with the file's picture")
    parts += [view[chunk.start - 8 : chunk.end + 4] for chunk in data]
    if chunks[-1].kind == b"IEND":
        parts.append(_chunk(b"IEND", b""))
    plain = b"".join(parts)
    exif = found.get(b"eXIf", Piece(b"eXIf", 0, 0))
    # No second copy while it is decoded.
    return content if plain == content else plain, content[exif.start : exif.end]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _is_good(content: bytes, chunk: Piece, has_palette: bool) -> bool:
    """Whether browsers take note of a chunk that comes before the pixels."""
    kind, start, end = chunk
    checksum = content[end : end + 4]
    if len(checksum) < 4 or zlib.crc32(memoryview(content)[start - 4 : end]) != int.from_bytes(checksum, "big"):
        return False
    if kind == b"acTL":
        return chunk.size_bytes == 8 and 0 < int.from_bytes(content[start : start + 4], "big") <= _MAX_FRAMES
    if kind == b"tRNS" and content[25] == _INDEXED:
        return has_palette and chunk.size_bytes <= _MAX_COLOURS
    if kind == b"eXIf":
        return not content.startswith(EXIF_NAME, start)  # which is of JPEGs alone
    return kind != b"tRNS" or chunk.size_bytes >= _TRANSPARENT_BYTES.get(content[25], 0)


def _transparency(content: bytes, chunk: Piece) -> bytes:
    """What tRNS holds, in 8 bits where Pillow decodes to 8: grey of 2 and 4 bits, and colours of 16. It leaves the
    transparent shade as it was.
    """
    depth, colour = content[24:26]
    if colour == _GREY and depth in (2, 4):
        return struct.pack(">H", content[chunk.start + 1] * 255 // ((1 << depth) - 1))
    if colour == _COLOUR and depth == 16:  # all colours that become the same one
        return struct.pack(">HHH", *content[chunk.start : chunk.start + 6 : 2])
    return content[chunk.start : chunk.end]
