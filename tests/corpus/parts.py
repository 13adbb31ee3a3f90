"""What files of the corpus are made of: pictures, chunks, segments, directories, boxes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SCORED = "scored"
"""Not an error code: odd, and an image all the same."""

Case = tuple[str, bytes, str]


def encode(image: Image.Image | np.ndarray, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def picture(height: int = 80, width: int = 96) -> np.ndarray:
    """Smooth, with some grain; (H, W, 3) uint8."""
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data, *, depth=8, colour=2, interlaced=0, before=b"", after=b"", end=True) -> bytes:
    """A PNG of raw scan lines, filter bytes included, and of other chunks before and after them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body = chunk(b"IDAT", zlib.compress(data, 9))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + after + (chunk(b"IEND", b"") if end else b"")


def flat_png(width, height, shade=0, **options) -> bytes:
    """Of 1 bit a pixel: a few bytes whatever its size."""
    line = b"\0" + bytes([255 * shade]) * -(-width // 8)
    return png(width, height, line * height, depth=1, colour=0, **options)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(data) + 2) + data


def tiff(entries, pixels=b"", order="<", big=False) -> bytes:
    """A TIFF with one directory of (tag, type, count, value); a value of bytes is put behind it."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    count, entry = ("Q", "HHQQ") if big else ("H", "HHII")
    directory = struct.pack(order + count, len(entries))
    end = len(head) + len(directory) + len(entries) * struct.calcsize(order + entry) + (8 if big else 4)
    for tag, kind, values, value in entries:
        directory += struct.pack(order + entry, tag, kind, values, end if value == "pixels" else value)
    return head + directory + bytes(8 if big else 4) + pixels


def grey_tiff(width=80, height=64, **changed) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: "pixels", 277: 1, 278: height, 279: width * height}
    tags |= {int(tag[1:]): value for tag, value in changed.items()}
    pixels = bytes(range(256)) * (width * height // 256)
    return tiff([(tag, 4, 1, value) for tag, value in sorted(tags.items())], pixels)


def box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I", len(data) + 8) + kind + data


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body
