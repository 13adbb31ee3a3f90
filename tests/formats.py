"""Images of every format that is read, as the tests of the detector make them."""

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import photo
from corpus.parts import chunk
from PIL import Image

from mdmf_ops.detector import ImageError, Limits, decode

RGB = photo(1)  # (96, 128, 3)
GREY = RGB[:, :, 1]
WIDE = np.random.default_rng(2).integers(0, 1 << 16, (96, 128), dtype=np.uint16)

LOSSLESS = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True, "exact": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff big": ("TIFF", {"big_tiff": True}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff packbits": ("TIFF", {"compression": "packbits"}),
}
LOSSY = {
    "jpeg": ("JPEG", {"quality": 95}),
    "jpeg progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "mpo": ("MPO", {"quality": 95}),
    "webp lossy": ("WEBP", {"quality": 95}),
    "avif": ("AVIF", {"quality": 95}),
}
FORMATS = LOSSLESS | LOSSY


def save(image, name, **options):
    """Encodes a Pillow image, or an array, in one of FORMATS."""
    image_format, own = FORMATS[name]
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **own, **options)
    return buffer.getvalue()


def grey_to_rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def png(width, height, depth, colour, rows, *extra):
    """A PNG of unfiltered rows, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def png_of(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_head(pixels):
    """IHDR of (H, W, 3) uint8."""
    height, width, _ = pixels.shape
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png_data(pixels):
    """What IDAT and fdAT hold of (H, W, 3) uint8."""
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def damaged(chunk):
    """A PNG's chunk of which the checksum is wrong."""
    return chunk[:-4] + bytes(byte ^ 1 for byte in chunk[-4:])


PNG_END = chunk(b"IEND", b"")


def encode_gif(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "GIF", **options)
    return buffer.getvalue()


BROKEN_EXIF = (
    b"",
    b"Exif\0\0",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12",
    b"x" * 99,
)
"""Metadata that is none."""


def error_of(content, limits=None):
    with pytest.raises(ImageError) as caught:
        decode(content, limits or Limits())
    return caught.value
