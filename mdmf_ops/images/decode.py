"""Bytes to upright RGB pixels. Every byte comes from a stranger.

The content decides the format, never a name. Limits are checked on the header, before a pixel is decoded. Pillow's
settings stay as they are, so a truncated image fails instead of ending in grey; the process that decodes sets one, that
an AVIF takes one thread.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.avif import PlainAvif
from mdmf_ops.images.bmp import PlainBmp
from mdmf_ops.images.canvas import PlainGif, PlainWebp
from mdmf_ops.images.jpeg_pixels import PlainJpeg, decode_jpeg
from mdmf_ops.images.metadata import check_metadata
from mdmf_ops.images.pieces import EXIF_NAME, boxes, container_of, tiff_entries, tiff_number, webp_size
from mdmf_ops.images.png import PlainPng
from mdmf_ops.images.tiff import PlainTiff
from mdmf_ops.images.truncation import is_cut, lacks_end, lacks_pixels

# Plugins are called by name, not through Image.open, which would warn of large images by limits of its own, and try one
# plugin after the other.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": PlainJpeg,  # of an MPO, a JPEG with more pictures after the first, it reads the first
    "PNG": PlainPng,
    "WEBP": PlainWebp,
    "GIF": PlainGif,
    "BMP": PlainBmp,
    "TIFF": PlainTiff,
    "AVIF": PlainAvif,
}

FORMATS = tuple(_PLUGINS)
"""What is read, through Pillow. Its other plugins, Ghostscript's among them, are never asked."""

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
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

# EXIF's orientations of which rows are columns, left is right, and top is bottom: turned back in the other order.
_SWAPPED, _MIRRORED, _UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7)

_ORIENTATION_TAG = 0x0112
_EXIF_STARTS = (b"II*\0", b"MM\0*")

# In messages of decoders about files that are whole: of odd TIFFs and BMPs, and of JPEGs that libjpeg does not decode.
_UNREAD_PIXELS = ("unknown pixel mode", "-bit layers", "unsupported jpeg", "unsupported marker", "bitfields layout")

_UPPER_BITS = (np.arange(1 << 16) >> 8).astype(np.uint8)
"""(65536,): of 16 bits the upper eight, which is what browsers show, and what Pillow keeps of a colour's."""

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
        max_side_px, min_side_px: of each side; the least is 64 px, under which there are too few patches to compare.
        max_metadata_bytes: all that is in the file beside its pixels.
        max_scans: of a progressive JPEG; encoders make about ten.
        max_decode_s: from bytes to tiles, wall-clock; only where a decoder runs in a process of its own.
        max_decode_bytes: memory of a decoder, the encoded image among it, likewise.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 80_000_000
    max_side_px: int = 30_000
    min_side_px: int = 64
    max_metadata_bytes: int = 16 << 20
    max_scans: int = 100
    max_decode_s: float = 8.0
    max_decode_bytes: int = 464 << 20

    def __post_init__(self):
        if self.min_side_px < 64:
            raise ValueError(f"min_side_px is {self.min_side_px}: under 64 px there are too few patches to compare")

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


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, kept as its file has it: most of a large one is never looked at.

    Attributes:
        stored: as decoded; of most JPEGs (H, W), (H, W, 3) or (H, W, 4) uint8, else Pillow's, of whatever mode.
        orientation: EXIF's, 1-8: how `stored` is turned upright.
        format: one of `FORMATS`.
        jpeg_quality: 1-100 as libjpeg counts; None for other formats and other quantisation tables.
    """

    stored: Image.Image | np.ndarray
    orientation: int
    format: str
    jpeg_quality: int | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image, in px."""
        width_px, height_px = self._stored_size
        return (height_px, width_px) if self.orientation in _SWAPPED else (width_px, height_px)

    @property
    def _stored_size(self) -> tuple[int, int]:
        return self.stored.shape[1::-1] if isinstance(self.stored, np.ndarray) else self.stored.size

    def crop(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """(H, W, 3) uint8 within (left, top, right, bottom), px of the upright image; nothing else is converted.

        Raises:
            ImageError: its pixels make no colours.
        """
        left, top, right, bottom = box
        width_px, height_px = self._stored_size
        swapped = self.orientation in _SWAPPED
        if swapped:
            left, top, right, bottom = top, left, bottom, right
        if mirrored := self.orientation in _MIRRORED:
            left, right = width_px - right, width_px - left
        if upside_down := self.orientation in _UPSIDE_DOWN:
            top, bottom = height_px - bottom, height_px - top
        with _image_errors():
            pixels = _rgb_within(self.stored, (left, top, right, bottom))
        pixels = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        return pixels.transpose(1, 0, 2) if swapped else pixels

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 of the whole image, upright: a copy."""
        return np.array(self.crop((0, 0, *self.size)))

    @property
    def image(self) -> Image.Image:
        """The whole image, upright RGB: a copy."""
        return Image.fromarray(self.pixels)


def decode(content: bytes, limits: Limits | None = None) -> DecodedImage:
    """Decodes an image: the frame or page that is shown first, upright, transparency on white, the upper 8 bits of 16.

    Colour profiles and a PNG's gamma are not applied: the detector reads what the file holds, not what a screen would
    show. Time and memory of a decoder are bounded by `mdmf_ops.images.isolation`, not here.

    Args:
        content: the encoded image.
        limits: what is refused before decoding; None is the default of each.

    Raises:
        ImageError: with the code of what is wrong, for whatever content.
        RuntimeError: this process told Pillow to make up the missing part of truncated images.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: half an image would be scored; leave it off")
    limits = limits or Limits()
    limits.check_bytes(len(content))
    plugin = _find_plugin(content)
    with _image_errors(content):
        check_metadata(content, limits.max_metadata_bytes, limits.max_scans)
        if plugin is PlainWebp:  # which makes its decoder as it opens, and fails without saying why
            limits.check_size(*(max(side_px, limits.min_side_px) for side_px in webp_size(content)))
        with plugin(io.BytesIO(content)) as image:
            limits.check_size(*image.size)
            if image.mode in ("F", "I", "LAB"):
                raise ImageError(ErrorCode.UNSUPPORTED_PIXELS, f"pixels of Pillow's mode {image.mode} are not read")
            if lacks_end(image, content):
                raise ImageError(ErrorCode.TRUNCATED, f"the {image.format} ends before its image does")
            quality = None
            if image.format == "JPEG":
                quality = estimate_jpeg_quality(image.quantization)
                stored = decode_jpeg(image)
            else:
                image.load()
                if lacks_pixels(image, content):
                    raise ImageError(ErrorCode.TRUNCATED, f"the {image.format}'s data end before its image does")
                stored = image
            return DecodedImage(stored, _orientation(image), image.format, quality)


@contextlib.contextmanager
def _image_errors(content: bytes = b"") -> Iterator[None]:
    """Whatever is raised within is this image's error."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, "decoding needs more memory than it may have") from error
    # Pillow's plugins leak errors of every kind on hostile files.
    except Exception as error:
        raise ImageError(_code(error, content), f"{type(error).__name__}: {error}") from error


def _find_plugin(content: bytes) -> type[ImageFile.ImageFile]:
    """The plugin that reads the content. Raises ImageError where none does."""
    container = container_of(content)
    if container == "ISO":
        head = next(boxes(content))
        brands = content[head.start : head.end]
        if b"avif" in brands or b"avis" in brands:
            return PlainAvif
        what = f"HEIC or another ISO media file (brand {brands[:4].decode('latin-1')!r})"
    elif container:
        return _PLUGINS[container]
    else:
        start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
        unknown = f"no image that is read here: it starts with {content[:8].hex(' ')}"
        what = next((name for magic, name in _OTHERS if start.startswith(magic)), unknown)
    raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, f"this is {what}; read are {', '.join(FORMATS)}")


def _code(error: Exception, content: bytes) -> ErrorCode:
    """What an error of Pillow's means."""
    if isinstance(error, Image.DecompressionBombError):
        return ErrorCode.TOO_MANY_PIXELS
    message = str(error).lower()
    if "memory" in message:
        return ErrorCode.OUT_OF_MEMORY
    if any(words in message for words in _UNREAD_PIXELS):
        return ErrorCode.UNSUPPORTED_PIXELS
    return ErrorCode.TRUNCATED if "truncated" in message or is_cut(content) else ErrorCode.CORRUPT


def _rgb_within(stored: Image.Image | np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8 within (left, top, right, bottom) of an image as it is stored."""
    left, top, right, bottom = box
    if not isinstance(stored, np.ndarray):
        return np.asarray(_to_rgb(stored if box == (0, 0, *stored.size) else stored.crop(box)))
    pixels = stored[top:bottom, left:right]
    if pixels.ndim == 2:
        return np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3))
    if pixels.shape[2] == 4:
        inks = np.ascontiguousarray(pixels)
        return np.asarray(Image.frombytes("CMYK", (right - left, bottom - top), inks).convert("RGB"))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255.
        wide = np.asarray(image)
        transparent = image.info.get("transparency")
        image = Image.fromarray(image.info.get("levels", _UPPER_BITS)[wide])
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(wide != transparent).convert("L"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation of a loaded image, 1-8; 1 where there is none. XMP is not asked: browsers do not."""
    if isinstance(image, PlainTiff):
        orientation = image.tag_v2.get(_ORIENTATION_TAG)
    else:
        exif = image.info.get("exif", b"").removeprefix(EXIF_NAME)
        entries = tiff_entries(exif) if exif.startswith(_EXIF_STARTS) else ()
        entry = next((entry for entry in entries if entry.tag == _ORIENTATION_TAG), None)
        is_one = entry and entry.numbers == 1 and entry.end - entry.start == 2
        orientation = is_one and tiff_number(exif, entry)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


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
