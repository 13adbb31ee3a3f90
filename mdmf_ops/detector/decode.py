"""Bytes to upright RGB pixels. Every byte comes from a stranger.

The content decides the format, never a name. Limits are checked on the header, before a pixel is decoded, and no
global setting of Pillow is touched, so a truncated image fails instead of ending in grey.
"""

import io
import struct
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import Image, UnidentifiedImageError

from mdmf_ops.detector.errors import ErrorCode, ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read, through Pillow. Its other plugins, Ghostscript's among them, are never asked."""

# Starts of files, for a message that helps; None where Pillow could have read it, had it not been damaged.
_STARTS = (
    (b"\xff\xd8\xff", None),
    (b"\x89PNG\r\n\x1a\n", None),
    (b"RIFF", None),
    (b"GIF8", None),
    (b"BM", None),
    (b"II*\0", None),
    (b"MM\0*", None),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"<", "HTML, SVG or XML"),
    (b"{", "JSON"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"SIMPLE  =", "FITS"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright."""

_ORIENTATION_TAG = 0x0112
_PNG_END = b"IEND\xaeB`\x82"

# The luminance table of the JPEG standard (Annex K), which libjpeg scales by its quality.
_LUMINANCE = np.fromstring(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99",
    dtype=np.int64,
    sep=" ",
)
_QUALITIES = np.arange(1, 101)
_SCALES = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
_TABLES = ((_LUMINANCE * _SCALES[:, None] + 50) // 100).clip(1, 255)  # (100, 64)


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded.

    Attributes:
        max_bytes: size of the encoded image.
        max_pixels: width times height.
        max_side_px, min_side_px: of each side. Under 64 px there are too few patches to compare.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 80_000_000
    max_side_px: int = 30_000
    min_side_px: int = 64

    def check_bytes(self, size_bytes: int) -> None:
        """Raises ImageError for an encoded image that is empty or too large."""
        if size_bytes == 0:
            raise ImageError(ErrorCode.EMPTY, "the file is empty")
        if size_bytes > self.max_bytes:
            raise ImageError(
                ErrorCode.TOO_MANY_BYTES, f"{size_bytes:,} bytes or more, at most {self.max_bytes:,} are read"
            )

    def check_size(self, width_px: int, height_px: int) -> None:
        """Raises ImageError for a width and height that are not decoded."""
        size = f"{width_px} x {height_px} px"
        if min(width_px, height_px) < self.min_side_px:
            raise ImageError(ErrorCode.TOO_SMALL, f"{size}: each side must have at least {self.min_side_px} px")
        if max(width_px, height_px) > self.max_side_px:
            raise ImageError(ErrorCode.SIDE_TOO_LONG, f"{size}: at most {self.max_side_px} px a side are decoded")
        if width_px * height_px > self.max_pixels:
            raise ImageError(ErrorCode.TOO_MANY_PIXELS, f"{size}: at most {self.max_pixels:,} pixels are decoded")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class DecodedImage:
    """An image ready to be cut into tiles.

    Attributes:
        image: upright RGB; kept as Pillow's, since most of a large image is never looked at.
        format: one of `FORMATS`.
        jpeg_quality: 1-100 as libjpeg counts; None for other formats and other quantisation tables.
    """

    image: Image.Image
    format: str
    jpeg_quality: int | None

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8: a copy."""
        return np.array(self.image)


def decode(content: bytes, limits: Limits = DEFAULT_LIMITS) -> DecodedImage:
    """Decodes an image: the first frame or page, upright, transparency on white, 16 bits scaled to 8.

    Colour profiles are not applied: the detector reads what the file holds, not what a screen would show.

    Args:
        content: the encoded image.
        limits: what is refused before decoding.

    Raises:
        ImageError: with the code of what is wrong, for whatever content.
    """
    limits.check_bytes(len(content))
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            limits.check_size(*image.size)
            if image.mode in ("F", "I", "LAB"):
                raise ImageError(ErrorCode.UNSUPPORTED_PIXELS, f"pixels of Pillow's mode {image.mode} are not read")
            image.load()
            # Pillow calls a PNG whole that lacks its end; WebP and the others it does refuse.
            if image.format == "PNG" and _PNG_END not in content:
                raise ImageError(ErrorCode.TRUNCATED, "the PNG lacks its end")
            is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with more pictures after the first
            quality = estimate_jpeg_quality(image.quantization) if is_jpeg else None
            return DecodedImage(_upright(_to_rgb(image)), "JPEG" if is_jpeg else image.format, quality)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(ErrorCode.TOO_MANY_PIXELS, f"at most {limits.max_pixels:,} pixels are decoded") from error
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, f"{len(content):,} bytes need more memory than is free") from error
    except UnidentifiedImageError:
        _refuse_unidentified(content)
    # Pillow's plugins leak errors of every kind on hostile files: whatever it is, it is this image's.
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        truncated = "truncated" in message.lower() or _webp_is_short(content)
        raise ImageError(ErrorCode.TRUNCATED if truncated else ErrorCode.CORRUPT, message) from error


def _refuse_unidentified(content: bytes) -> NoReturn:
    start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if content[4:8] == b"ftyp":
        brand = content[8:12].decode("latin-1")
        if brand not in ("avif", "avis"):
            raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"HEIC or another ISO media file (brand {brand!r})")
        what = None
    else:
        unknown = f"no image that is read here: it starts with {content[:8].hex(' ')}"
        what = next((name for magic, name in _STARTS if start.startswith(magic)), unknown)
    if what:
        raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"this is {what}; read are {', '.join(FORMATS)}")
    raise ImageError(ErrorCode.CORRUPT, "starts like an image, but its header cannot be read: damaged or cut short")


def _webp_is_short(content: bytes) -> bool:
    """Whether a WebP has fewer bytes than its header says."""
    return content[:4] == b"RIFF" and len(content) >= 8 and len(content) < 8 + struct.unpack("<I", content[4:8])[0]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255: 0..65535 is scaled to 0..255, rounded.
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # broken metadata does not make pixels unreadable
        return image
    transposition = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def estimate_jpeg_quality(tables: dict[int, list[int]]) -> int | None:
    """Quality, 1-100, whose libjpeg luminance table is nearest to the image's; None where none is near.

    Args:
        tables: quantisation tables of 64 steps in natural order, by index, as Pillow gives them.
    """
    if len(tables.get(0, ())) != 64:
        return None
    distances = np.abs(_TABLES - np.array(tables[0])).mean(axis=1)
    best = int(distances.argmin())
    # Under half a step on average: tables of other encoders (Photoshop, phones) lie well away.
    return int(_QUALITIES[best]) if distances[best] < 0.5 else None
