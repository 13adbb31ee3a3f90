"""Pixels of a JPEG, all of them or none.

Pillow decodes a JPEG whose data end too early, and fills up with grey: libjpeg only warns, and Pillow does not hear it.
simplejpeg wraps the same libjpeg-turbo, gives the same pixels in less time, and passes its first warning on. What it
does not know is chroma of which there are three columns or rows to one of luma, and the like: Pillow decodes that.
"""

import hashlib
import io
import re

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from mdmf_ops.detector.errors import ErrorCode, ImageError
from mdmf_ops.detector.pieces import JPEG_END, JPEG_SCAN, JPEG_START, jpeg_segments

_COLOURS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""What libjpeg is asked for, by Pillow's mode of the image."""

# libjpeg's warnings that say that pixels are wrong, and those that are of an odd but whole file.
_TRUNCATED = re.compile("premature end", re.IGNORECASE)
_DAMAGED = re.compile(
    "bad Huffman code|bad arithmetic code|instead of RST|extraneous bytes before marker 0xd[0-7]", re.IGNORECASE
)
_HARMLESS = re.compile(
    "extraneous bytes before marker|inconsistent progression sequence|invalid SOS parameters for sequential",
    re.IGNORECASE,
)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")

_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_UNREAD = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
"""Markers of the frames that libjpeg decodes, and of the others."""

# JFIF's and Adobe's own segments tell of colours.
_JFIF, _ADOBE = 0xE0, 0xEE
_METADATA = (*range(_JFIF + 1, _ADOBE), 0xEF, 0xFE)

_TRANSFORMS = {"RGB": (0, 1), "CMYK": (0, 2)}
"""Adobe's numbers for no transform of colours and for YCbCr or YCCK, by Pillow's mode of the image."""

_PADDING_BYTES = 64
"""So many zeros before the end mark that no pixel is made of are those of a download that was never finished."""

_FILLING = bytes(range(1, 251, 3)) * 2
_BAND_PX = 256


def decode_jpeg(image: JpegImageFile, content: bytes) -> np.ndarray | JpegImageFile:
    """Decodes a JPEG that Pillow has opened.

    Returns:
        (H, W, 3), (H, W) or (H, W, 4) uint8: RGB, grey, or CMYK as Pillow has it, 255 is full ink. Pillow's image,
        loaded, where simplejpeg does not know how its chroma is sampled.

    Raises:
        ImageError: data for some pixels are missing or damaged.
        ValueError: libjpeg cannot decode it.
    """
    _check_scans(content)
    content = _plain(content, image.mode)
    try:
        height_px, width_px, *_ = simplejpeg.decode_jpeg_header(content, strict=False)
    except KeyError:  # TurboJPEG has a number for how its chroma is sampled, simplejpeg no name for that
        return _by_pillow(content, image.size)
    except ValueError as error:
        if "subsampling" in str(error):
            return _by_pillow(content, image.size)
        raise
    # Before memory is taken: both read the header, and it may be made so that they read it differently.
    _check_size(image.size, (width_px, height_px))
    colours = _COLOURS[image.mode]
    try:
        pixels = simplejpeg.decode_jpeg(content, colours, strict=True)
    except ValueError as error:
        warning = str(error)
        if _TRUNCATED.search(warning) or _is_padded(warning, content):
            raise ImageError(ErrorCode.TRUNCATED, f"the JPEG's data end before its image does: {warning}") from error
        if _DAMAGED.search(warning):
            raise ImageError(ErrorCode.CORRUPT, warning) from error
        # Told to go on, simplejpeg takes an error that follows a warning for a warning too, and gives pixels that were
        # never written: whatever was in memory.
        if not _HARMLESS.search(warning):
            raise
        pixels = simplejpeg.decode_jpeg(content, colours, strict=False)
    if colours == "GRAY":
        return pixels[:, :, 0]
    # In place: at the limit of pixels a second copy would not fit.
    return np.invert(pixels, out=pixels) if colours == "CMYK" else pixels


def _check_size(first: tuple[int, int], second: tuple[int, int]) -> None:
    if first != second:
        sizes = "{} x {} and {} x {} px".format(*first, *second)
        raise ImageError(ErrorCode.CORRUPT, f"the header can be read as two sizes: {sizes}")


def _by_pillow(content: bytes, size: tuple[int, int]) -> JpegImageFile:
    """Decodes by Pillow. Data that are damaged and not missing are not noticed: they show, as in any viewer.

    Args:
        content: of `_plain`.
        size: width and height in px, which limits were checked on.

    Raises:
        ImageError: data for some pixels are missing.
    """
    # With bytes behind each scan that no pixel of a whole one is made of. One image after the other: at the limit of
    # pixels two would not fit.
    expected = _digest(_load(_filled(content), size))
    image = _load(content, size)
    if _digest(image) != expected:
        raise ImageError(ErrorCode.TRUNCATED, "the JPEG's data end before its image does")
    return image


def _load(content: bytes, size: tuple[int, int]) -> JpegImageFile:
    image = JpegImageFile(io.BytesIO(content))
    _check_size(size, image.size)
    image.load()
    return image


def _digest(image: JpegImageFile) -> bytes:
    digest = hashlib.sha256()
    for top in range(0, image.height, _BAND_PX):
        digest.update(image.crop((0, top, image.width, min(top + _BAND_PX, image.height))).tobytes())
    return digest.digest()


def _filled(content: bytes) -> bytes:
    """A JPEG with more data behind each scan than it has."""
    view, parts, position, in_scan = memoryview(content), [], 0, False
    for marker, start, _ in jpeg_segments(content):
        if in_scan:
            begin = start - (2 if marker in (JPEG_START, JPEG_END) else 4)
            parts += view[position:begin], _FILLING
            position = begin
        in_scan = marker == JPEG_SCAN
    return b"".join([*parts, view[position:]])


def _check_scans(content: bytes) -> None:
    """Raises ImageError for a kind of JPEG that libjpeg does not decode, and for one that lacks its last scans.

    Those would give a component, the finest bits, or luma's detail.
    """
    components: dict[int, list[int]] = {}  # by id: of each of its 64 coefficients the lowest bit that a scan gave
    progressive = False
    for marker, start, end in jpeg_segments(content):
        segment = content[start:end]
        if marker in _UNREAD:
            raise ImageError(ErrorCode.UNSUPPORTED_PIXELS, "a lossless or hierarchical JPEG")
        if marker in (*_SEQUENTIAL, *_PROGRESSIVE) and len(segment) > 5:
            components = {component: [-1] * 64 for component in segment[6 : 6 + 3 * segment[5] : 3]}
            progressive = marker in _PROGRESSIVE
        elif marker == JPEG_SCAN and segment and len(segment) == 2 * segment[0] + 4:
            first, last, bits = segment[-3:] if progressive else (0, 63, 0)
            for component in segment[1:-3:2]:
                if component in components:
                    components[component][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    found = list(components.values())
    if any(bits[0] != 0 or max(bits) > 0 for bits in found) or (found and min(found[0]) < 0):
        raise ImageError(ErrorCode.TRUNCATED, "the JPEG ends before the last of its scans")


def _plain(content: bytes, mode: str) -> bytes:
    """A JPEG of the same pixels, of whose head libjpeg has nothing to warn.

    simplejpeg takes a warning of the head for an error, even where it is told to go on, and only hears the first one:
    it must be of the pixels. So what says nothing of them is left out, stray bytes of the head included.

    Args:
        content: the whole file.
        mode: Pillow's.
    """
    view, parts, position, in_head = memoryview(content), [content[:2]], 2, True
    for marker, start, end in jpeg_segments(content):
        begin = start - (2 if marker in (JPEG_START, JPEG_END) else 4)
        if not in_head:
            parts.append(view[position:begin])  # of a scan
        if marker in (_JFIF, _ADOBE):
            parts += view[begin:start], _plain_colours(marker, content[start:end], mode)
        elif marker not in _METADATA:
            parts.append(view[begin:end])
        position, in_head = end, in_head and marker != JPEG_SCAN
    plain = b"".join([*parts, view[position:]])
    return content if plain == content else plain  # no second copy while it is decoded


def _plain_colours(marker: int, segment: bytes, mode: str) -> bytes:
    """JFIF's or Adobe's segment, saying in numbers that libjpeg knows what it makes of those that it does not."""
    if marker == _JFIF and segment.startswith(b"JFIF\0") and len(segment) >= 14:
        return segment if segment[5] == 1 else segment[:5] + b"\1\1" + segment[7:]
    if marker == _ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12 and mode in _TRANSFORMS:
        known = _TRANSFORMS[mode]
        return segment if segment[11] in known else segment[:11] + bytes(known[1:]) + segment[12:]
    return segment


def _is_padded(warning: str, content: bytes) -> bool:
    extraneous = _EXTRANEOUS.search(warning)
    return bool(extraneous and int(extraneous[1]) >= _PADDING_BYTES and bytes(_PADDING_BYTES) + b"\xff\xd9" in content)
