"""Bytes to upright RGB pixels. Every byte comes from a stranger.

The content decides the format, never a name. Limits are checked on the header, before a pixel is decoded, and no
setting of Pillow is touched, so a truncated image fails instead of ending in grey.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mdmf_ops.detector.errors import ErrorCode, ImageError
from mdmf_ops.detector.truncation import is_cut, lacks_end

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read, through Pillow. Its other plugins, Ghostscript's among them, are never asked."""

# Starts of files and the plugin that reads them. Plugins are called by name, not through Image.open, which would
# warn of large images by limits of its own, and try one plugin after the other.
_PLUGINS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),  # of an MPO, a JPEG with more pictures after the first, it reads the first
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),  # BigTIFF
    (b"MM\0+", TiffImageFile),
)

# Starts of other files, for a message that helps.
_OTHERS = (
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

# Pillow warns of odd metadata, which is no news about a stranger's file. A filter once, here, since to change filters
# and change them back around each image would be a race between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Png)ImagePlugin")

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

_WIDE_TO_BYTE = ((np.arange(1 << 16) * 255 + 32767) // 65535).astype(np.uint8)
"""(65536,): 0..65535 scaled to 0..255, rounded."""

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
        RuntimeError: this process told Pillow to make up the missing part of truncated images.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: half an image would be scored; leave it off")
    limits.check_bytes(len(content))
    plugin = _find_plugin(content)
    try:
        with plugin(io.BytesIO(content)) as image:
            limits.check_size(*image.size)
            if image.mode in ("F", "I", "LAB"):
                raise ImageError(ErrorCode.UNSUPPORTED_PIXELS, f"pixels of Pillow's mode {image.mode} are not read")
            if lacks_end(image, content):
                raise ImageError(ErrorCode.TRUNCATED, f"the {image.format} ends before its image does")
            image.load()
            quality = estimate_jpeg_quality(image.quantization) if image.format == "JPEG" else None
            # Conversion may drop the metadata that the orientation is part of.
            transposition = _transposition(image)
            pixels = _to_rgb(image)
            return DecodedImage(
                pixels if transposition is None else pixels.transpose(transposition), image.format, quality
            )
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, f"{len(content):,} bytes need more memory than is free") from error
    # Pillow's plugins leak errors of every kind on hostile files: whatever it is, it is this image's.
    except Exception as error:
        raise ImageError(_code(error, content), f"{type(error).__name__}: {error}") from error


def _find_plugin(content: bytes) -> type[ImageFile.ImageFile]:
    """The plugin that reads the content. Raises ImageError where none does."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return WebPImageFile
    if content[4:8] == b"ftyp":
        brands = content[8 : int.from_bytes(content[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return AvifImageFile
        what = f"HEIC or another ISO media file (brand {content[8:12].decode('latin-1')!r})"
    else:
        for magic, plugin in _PLUGINS:
            if content.startswith(magic):
                return plugin
        start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
        unknown = f"no image that is read here: it starts with {content[:8].hex(' ')}"
        what = next((name for magic, name in _OTHERS if start.startswith(magic)), unknown)
    raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"this is {what}; read are {', '.join(FORMATS)}")


def _code(error: Exception, content: bytes) -> ErrorCode:
    """What an error of Pillow's means."""
    if isinstance(error, Image.DecompressionBombError):
        return ErrorCode.TOO_MANY_PIXELS
    message = str(error).lower()
    if "truncated" in message or is_cut(content):
        return ErrorCode.TRUNCATED
    return ErrorCode.UNSUPPORTED_PIXELS if "unknown pixel mode" in message else ErrorCode.CORRUPT


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255.
        wide = np.asarray(image)
        transparent = image.info.get("transparency")
        image = Image.fromarray(_WIDE_TO_BYTE[wide])
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(wide != transparent).convert("L"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """What makes a loaded image upright; None where it is so already."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # broken metadata does not make pixels unreadable
        return None
    return _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None


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
