"""Pixels of a JPEG, all of them or none.

Pillow decodes a JPEG whose data end too early, and fills up with grey: libjpeg only warns, and Pillow does not hear it.
simplejpeg wraps the same libjpeg-turbo, gives the same pixels in less time, and passes its first warning on. Pillow
decodes what follows a warning of a file that is odd but may be whole, and what simplejpeg does not know: chroma of
which there are three columns or rows to one of luma, and the like. There missing data are found another way.
"""

import hashlib
import io
import re
from itertools import takewhile

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.pieces import EXIF_NAME, JPEG_APP1, JPEG_END, JPEG_SCAN, Piece, jpeg_segments

_COLOURS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""What libjpeg is asked for, by Pillow's mode of the image."""

# libjpeg's warnings that data are missing, and those of an odd but whole file: stray bytes before a restart mark would
# be a part of its data. All others are of damage.
_TRUNCATED = re.compile("premature end", re.IGNORECASE)
_HARMLESS = re.compile(
    "extraneous bytes before marker (?!0xd[0-7])|inconsistent progression sequence"
    "|invalid SOS parameters for sequential",
    re.IGNORECASE,
)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")

_SEQUENTIAL, _PROGRESSIVE, _ARITHMETIC = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA), (0xC9, 0xCA)
_UNREAD = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
"""Markers of the frames that libjpeg decodes, and of the others."""

# JFIF's and Adobe's own segments tell of colours.
_JFIF, _ADOBE = 0xE0, 0xEE
_METADATA = (*range(_JFIF, 0xF0), 0xFE)

_TRANSFORMS = {3: (0, 1), 4: (0, 2)}
"""Adobe's numbers for no transform of colours and for YCbCr or YCCK, by how many components the image has."""

_END = b"\xff\xd9"

_PADDING_BYTES = 64
"""So many zeros before the end mark that no pixel is made of are those of a download that was never finished."""

# Where data are missing libjpeg goes on with bits of 0, which may be a whole block: filling begins with a bit of 1.
_FILLING = b"\xa6" + bytes(range(1, 251, 3)) * 2
_RESTARTS = bytes(range(0xD0, 0xD8))
# What ends a run of a scan's data, with fill bytes before it.
_MARK = re.compile(rb"(?<!\xff)\xff+[^\0\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_BAND_PX = 256


class PlainJpeg(JpegImageFile):
    """A JPEG that Pillow opens without what says nothing of its pixels: of metadata it would take amiss what no viewer
    does. Orientation is EXIF's alone.

    Attributes:
        plain: the file of `_plain`.
    """

    def __init__(self, file: io.BytesIO):
        content = file.getvalue()
        pieces = list(jpeg_segments(content))
        self.plain = _plain(content, pieces)
        super().__init__(io.BytesIO(self.plain))
        if exif := _exif(content, pieces):
            self.info["exif"] = exif


def decode_jpeg(image: PlainJpeg) -> np.ndarray | JpegImageFile:
    """Decodes a JPEG that is opened and not loaded.

    Returns:
        (H, W, 3), (H, W) or (H, W, 4) uint8: RGB, grey, or CMYK as Pillow has it, 255 is full ink. Pillow's image,
        loaded, where simplejpeg does not know how its chroma is sampled, or a warning may hide others.

    Raises:
        ImageError: data for some pixels are missing or damaged.
        ValueError: libjpeg cannot decode it.
    """
    content = image.plain
    _check_scans(content)
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
    # Pillow stopped at the first scan: the end of a thumbnail lies before.
    if lacks_end := content.find(_END, image.fp.tell()) < 0:
        # A download that was never finished may end in zeros, of which blocks may be made.
        if content.endswith(b"\0\0"):
            raise ImageError(ErrorCode.TRUNCATED, "the JPEG ends in zeros, without an end mark")
        content += _END  # if that alone is not there, libjpeg has nothing to warn of
    try:
        pixels = simplejpeg.decode_jpeg(content, colours, strict=True)
    except ValueError as error:
        warning = str(error)
        if lacks_end or _TRUNCATED.search(warning) or _is_padded(warning, content):
            raise ImageError(ErrorCode.TRUNCATED, f"the JPEG's data end before its image does: {warning}") from error
        if not _HARMLESS.search(warning):
            raise
        # Told to go on, simplejpeg is silent about all that follows: missing data, and errors, for which it gives
        # pixels that were never written.
        return _by_pillow(content, image.size)
    if colours == "GRAY":
        return pixels[:, :, 0]
    # In place: at the limit of pixels a second copy would not fit.
    return np.invert(pixels, out=pixels) if colours == "CMYK" else pixels


def _check_size(first: tuple[int, int], second: tuple[int, int]) -> None:
    if first != second:
        sizes = "{} x {} and {} x {} px".format(*first, *second)
        raise ImageError(ErrorCode.CORRUPT, f"the header can be read as two sizes: {sizes}")


def _by_pillow(content: bytes, size: tuple[int, int]) -> JpegImageFile:
    """Decodes by Pillow. Data that are damaged and not missing are not noticed, nor what arithmetic code lacks: that
    shows, as in any viewer.

    Args:
        content: of `_plain`.
        size: width and height in px, which limits were checked on.

    Raises:
        ImageError: data for some pixels are missing, or restart marks are.
    """
    pieces = list(jpeg_segments(content))
    content = content[: pieces[-1].end]
    if any(piece.kind in _ARITHMETIC for piece in pieces):  # more data would be of the last pixels
        return _load(content, size)
    # With bytes behind each run of data that no pixel of a whole one is made of. One image after the other: at the
    # limit of pixels two would not fit.
    expected = _digest(_load(_filled(content), size))
    padding = bytes(_PADDING_BYTES) + _END
    if content.endswith(padding) and _digest(_load(_filled(content[: -len(padding)] + _END), size)) == expected:
        raise ImageError(ErrorCode.TRUNCATED, "the JPEG's data end in zeros that no pixel is made of")
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
    """A JPEG with more data behind each run of a scan's than it has, and one run more.

    Raises ImageError for restart marks that are not in turn: what is missing between two is not asked for.
    """
    view, parts, position, in_scan = memoryview(content), [], 0, False
    for segment in jpeg_segments(content):
        if in_scan:
            scan = view[position : segment.marker_start]
            restarts = b"".join(_RESTART.findall(scan))
            if not (_RESTARTS * (1 + len(restarts) // 8)).startswith(restarts):
                raise ImageError(ErrorCode.CORRUPT, "the JPEG's restart marks are not in turn")
            following = bytes([0xFF, _RESTARTS[len(restarts) % 8]])
            data = _MARK.sub(lambda mark: _FILLING + mark[0], scan).rstrip(b"\xff")
            parts += data, _FILLING, following, _FILLING
            position = segment.marker_start
        if in_scan := segment.kind == JPEG_SCAN:
            parts.append(view[position : segment.end])
            position = segment.end
    return b"".join([*parts, view[position:]])


def _check_scans(content: bytes) -> None:
    """Raises ImageError for a kind of JPEG that libjpeg does not decode, and for one that lacks its last scans: a
    component, the finest bits, or the detail of luma. libjpeg does not warn of that.
    """
    components: dict[int, list[int]] = {}  # by id: of each of its 64 coefficients the lowest bit that a scan gave
    progressive, kinds = False, set()
    for marker, start, end in jpeg_segments(content):
        kinds.add(marker)
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
    # Of arithmetic code libjpeg takes what is not there for zeros, and does not warn.
    if JPEG_END not in kinds and not kinds.isdisjoint(_ARITHMETIC):
        raise ImageError(ErrorCode.TRUNCATED, "the JPEG has no end mark, and its data do not tell where they end")


def _plain(content: bytes, pieces: list[Piece]) -> bytes:
    """A JPEG of the same pixels, of whose head neither Pillow nor libjpeg has anything to say.

    Pillow fails for metadata that are broken. simplejpeg takes a warning of the head for an error, and only hears the
    first one: it must be of the pixels. So what says nothing of them is left out, stray bytes of the head included.
    """
    view, parts, position, in_head = memoryview(content), [content[:2]], 2, True
    frames = (content[start:end] for marker, start, end in pieces if marker in (*_SEQUENTIAL, *_PROGRESSIVE))
    components = next((frame[5] for frame in frames if len(frame) > 5), 0)
    for piece in pieces:
        marker, start, end = piece
        if not in_head:
            parts.append(view[position : piece.marker_start])  # of a scan
        if marker in (_JFIF, _ADOBE) and (colours := _plain_colours(marker, content[start:end], components)):
            parts += view[piece.marker_start : start], colours
        # Behind the first scan all stays: amid data it ends them. So does what is cut off: it is an error.
        elif marker not in _METADATA or not in_head or end > len(content):
            parts.append(view[piece.marker_start : end])
        position, in_head = end, in_head and marker != JPEG_SCAN
    plain = b"".join([*parts, view[position:]])
    return content if plain == content else plain  # no second copy while it is decoded


def _plain_colours(marker: int, segment: bytes, components: int) -> bytes:
    """JFIF's or Adobe's segment, saying in numbers that libjpeg knows what it makes of those that it does not; nothing
    for a segment that libjpeg does not read."""
    if marker == _JFIF and segment.startswith(b"JFIF\0") and len(segment) >= 14:
        return segment if segment[5] == 1 else segment[:5] + b"\1\1" + segment[7:]
    if marker == _ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
        known = _TRANSFORMS.get(components, segment[11:12])
        return segment if segment[11] in known else segment[:11] + bytes(known[1:]) + segment[12:]
    return b""


def _exif(content: bytes, pieces: list[Piece]) -> bytes:
    """EXIF of the head, put together; nothing where there is none."""
    head = takewhile(lambda piece: piece.kind != JPEG_SCAN, pieces)
    exif = (piece for piece in head if piece.kind == JPEG_APP1 and content.startswith(EXIF_NAME, piece.start))
    parts = [content[piece.start + len(EXIF_NAME) : piece.end] for piece in exif]
    return EXIF_NAME + b"".join(parts) if parts else b""


def _is_padded(warning: str, content: bytes) -> bool:
    extraneous = _EXTRANEOUS.search(warning)
    return bool(extraneous and int(extraneous[1]) >= _PADDING_BYTES and bytes(_PADDING_BYTES) + _END in content)
