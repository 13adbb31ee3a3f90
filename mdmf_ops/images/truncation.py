"""Whether a file ends before the image in it does, by what each format says of its own length.

Most cuts make Pillow fail; then `is_cut` tells a cut file, worth fetching again, from a damaged one. Some cuts Pillow
does not notice: `lacks_end` does before anything is decoded, `lacks_pixels` where only decoding tells. A JPEG's are
found in `mdmf_ops.images.jpeg_pixels`.
"""

import io
import struct
import zlib

from PIL.ImageFile import ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mdmf_ops.images.pieces import TIFF_LAYOUTS, Piece, boxes, container_of, png_chunks, riff_chunks, tiff_entries

_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND"

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""

# Of the passes of an interlaced PNG: first column and row, and steps between them.
_PNG_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

_INFLATED_BYTES = 1 << 16

_STRIPS = ((273, 279), (324, 325))
"""Tags of a TIFF that hold offsets and sizes of strips, and of tiles."""

_CLOSED = ("jpeg", "tiff_adobe_deflate", "tiff_deflate")
"""How a TIFF's strips are packed that end in a mark or a checksum, and in no zeros."""

_ZEROS_BYTES = 16
"""So many zeros at the end of compressed data are those of a download that was never finished, or need a look."""


def lacks_end(image: ImageFile, content: bytes) -> bool:
    """Whether the end of a TIFF's or AVIF's pixels is not in the file.

    Args:
        image: opened and not loaded.
        content: the whole file.
    """
    if image.format == "AVIF":
        return _ends_in_zeros(content)
    if image.format == "TIFF":
        # libtiff would refuse it too, but as damaged, and on the error output of the process.
        tags, is_closed = image.tag_v2, image.info["compression"] in _CLOSED
        for offsets, sizes in _STRIPS:
            for start, size_bytes in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False):
                end = start + size_bytes
                if not start or end > len(content):  # left out, or cut off
                    return True
                if is_closed and content.endswith(bytes(_ZEROS_BYTES), start, end):
                    return True
        # Of fewer than there should be Pillow leaves the rest black.
        found = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile)
        return 0 < found < image.width * image.height
    return False


def lacks_pixels(image: ImageFile, content: bytes) -> bool:
    """Whether the data of a PNG or WebP that Pillow decoded end before its last pixel.

    Args:
        image: loaded.
        content: the whole file.
    """
    if image.format == "PNG":
        return _lacks_rows(image, image.plain)
    return image.format == "WEBP" and _is_padded(content)


def _lacks_rows(image: ImageFile, content: bytes) -> bool:
    width_px, height_px, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    has_end = _PNG_END in content[-12:]
    # Memory that no row was decoded into is zero. Only an image whose last pixel is zero too, or that has no end, is
    # inflated once more.
    last = image.getpixel((width_px - 1, height_px - 1))
    if has_end and not interlaced and any(last if isinstance(last, tuple) else (last,)):
        return False
    pixel_bits = depth * _PNG_CHANNELS[colour]
    expected_bytes = 0
    for left, top, step_x, step_y in _PNG_PASSES if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width_px - left) // step_x), -(-(height_px - top) // step_y)
        expected_bytes += max(rows, 0) * (1 + -(-columns * pixel_bits // 8)) if columns > 0 else 0
    size_bytes, is_complete = _inflated(content, expected_bytes)
    # Zeros in place of the end may well decode, but not to the checksum of all pixels.
    return size_bytes < expected_bytes or not (has_end or is_complete)


def _inflated(content: bytes, enough_bytes: int) -> tuple[int, bool]:
    """Size of what a PNG's data inflate to, as far as it is asked for, and whether they are complete with that."""
    # In pieces: what an inflater leaves of one is copied each time.
    inflater, size_bytes = zlib.decompressobj(), 0
    for kind, start, end in png_chunks(content):
        data = memoryview(content)[start:end] if kind == b"IDAT" else b""
        for position in range(0, len(data), _INFLATED_BYTES):
            piece = data[position : position + _INFLATED_BYTES]
            while piece and size_bytes <= enough_bytes and not inflater.eof:
                size_bytes += len(inflater.decompress(piece, 1 << 20))
                piece = inflater.unconsumed_tail
    return size_bytes, inflater.eof


def _is_padded(content: bytes) -> bool:
    """Whether a WebP's pixels decode without the zeros that its data end in: then those are no part of them.

    An encoder may well end in zeros, thousands of them where the picture ends in one colour; but it needs them all.
    """
    picture = _webp_picture(content)
    data = content[picture.start : picture.end] if picture else b""
    if not data.endswith(bytes(_ZEROS_BYTES)):
        return False
    data = data[: -_ZEROS_BYTES // 2]
    chunk = b"WEBP" + picture.kind + struct.pack("<I", len(data)) + data
    try:
        with WebPImageFile(io.BytesIO(b"RIFF" + struct.pack("<I", len(chunk)) + chunk)) as shorter:
            shorter.load()
    except Exception:  # of whatever kind: without them it is no picture
        return False
    return True


def _webp_picture(content: bytes) -> Piece | None:
    """The chunk of a WebP's first picture."""
    for piece in riff_chunks(content):
        if piece.kind == b"ANMF":
            return next((part for part in riff_chunks(content, piece.start + 16) if part.kind[:3] == b"VP8"), None)
        if piece.kind in (b"VP8 ", b"VP8L"):
            return piece
    return None


def _ends_in_zeros(content: bytes) -> bool:
    """Whether an AVIF's data end in more zeros than any encoder writes: AV1 closes its data with a bit that is set.

    Metadata may follow the pixels and end in some zeros of their own.
    """
    for box in boxes(content):
        if box.kind == b"mdat":
            zeros = 2 * _ZEROS_BYTES + box.size_bytes // 64
            return box.size_bytes > zeros and content[: box.end].endswith(bytes(zeros))
    return False


def is_cut(content: bytes) -> bool:
    """Whether a file that could not be decoded is shorter than it says itself, or lacks its end mark."""
    container = container_of(content)
    try:
        if container == "JPEG":
            return _JPEG_END not in content
        if container == "PNG":
            return _PNG_END not in content
        if container == "GIF":
            return not content.endswith(b";")
        if container == "WEBP":
            return len(content) < 8 + struct.unpack_from("<I", content, 4)[0]
        if container == "TIFF":
            return len(content) < _tiff_directory_end(content)
        if container == "ISO":
            kinds, ends = zip(*((box.kind, box.end) for box in boxes(content)), strict=True)
            return len(content) < ends[-1] or b"mdat" not in kinds
    except (struct.error, OverflowError):  # the length itself is cut off
        return True
    return False


def _tiff_directory_end(content: bytes) -> int:
    """Where the first directory of a TIFF ends, or the last of the values that it refers to."""
    order, offset_format, count_format = TIFF_LAYOUTS[content[:4]]
    offset, count = struct.Struct(order + offset_format), struct.Struct(order + count_format)
    [start] = offset.unpack_from(content, offset.size)
    [entries] = count.unpack_from(content, start)
    end = start + count.size + (4 + 2 * offset.size) * entries + offset.size
    return max([end, *(entry.end for entry in tiff_entries(content))])
