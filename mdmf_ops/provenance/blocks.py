"""Where each format keeps its metadata: one walk over the headers, no pixel decoded, every loop and size bounded.

Pillow reads most of these blocks too, but not C2PA's, not what a PNG says after its pixels (where exiftool writes), and
not of an image whose pixels are broken.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL.AvifImagePlugin import AvifImageFile

from mdmf_ops.provenance.exif import TIFF_C2PA, TIFF_XMP, read_tags

MAX_BLOCK_BYTES = 1 << 20
"""Of EXIF, XMP and one text chunk, unpacked: a larger one is not read."""

MAX_MANIFEST_BYTES = 16 << 20
"""Of a C2PA manifest store, which may hold thumbnails."""

_MAX_PARTS = 20_000
"""Segments, chunks or boxes that are looked at: a PNG of 64 MiB in libpng's usual pieces has 8,192."""

_MAX_TEXTS = 64

_XMP_KEYWORD = "XML:com.adobe.xmp"
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_C2PA_PURPOSE = b"manifest\0"

_SOI_LIKE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length."""


@dataclass
class Blocks:
    """The metadata of one file, as bytes that nobody has checked.

    Attributes:
        exif: from the TIFF header on; of a TIFF, the whole file.
        xmp: the packet.
        c2pa: the manifest store, a JUMBF box; empty where there is one that is too large to be read.
        text: of a PNG's text chunks, by keyword.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    c2pa: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)


def find_blocks(content: bytes) -> Blocks:
    """The metadata blocks of a file; of a damaged one, those before the damage. Of GIF and BMP none are read.

    Raises:
        Exception: of whatever kind, where Pillow does not open an AVIF.
    """
    blocks = Blocks()
    try:
        if content.startswith(b"\xff\xd8\xff"):
            _from_jpeg(content, blocks)
        elif content.startswith(b"\x89PNG\r\n\x1a\n"):
            _from_png(content, blocks)
        elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            _from_webp(content, blocks)
        elif content.startswith((b"II*\0", b"MM\0*")):
            tags = read_tags(content, {TIFF_XMP: MAX_BLOCK_BYTES, TIFF_C2PA: MAX_MANIFEST_BYTES})
            blocks.exif, blocks.xmp, blocks.c2pa = content, tags.get(TIFF_XMP), tags.get(TIFF_C2PA)
        elif content[4:8] == b"ftyp":
            _from_avif(content, blocks)
    except struct.error:  # the file ends within a header
        pass
    return blocks


def _from_jpeg(content: bytes, blocks: Blocks) -> None:
    pieces: dict[bytes, list[tuple[int, bytes]]] = {}
    for marker, payload in _segments(content):
        if marker == 0xE1 and payload.startswith(b"Exif\0\0") and blocks.exif is None:
            blocks.exif = payload[6:]
        elif marker == 0xE1 and payload.startswith(_XMP_SEGMENT) and blocks.xmp is None:
            blocks.xmp = payload[len(_XMP_SEGMENT) :]
        elif marker == 0xEB and payload.startswith(b"JP") and len(payload) > 16:
            [number] = struct.unpack_from(">I", payload, 4)
            pieces.setdefault(payload[2:4], []).append((number, payload[8:]))
    for parts in pieces.values():
        # Each piece repeats the header of the box that is cut over them; `number` says in which order they follow.
        parts.sort(key=lambda part: part[0])
        box = b"".join([parts[0][1], *(part[8:] for _, part in parts[1:])])
        if blocks.c2pa is None and _is_manifest_store(box):
            blocks.c2pa = box if len(box) <= MAX_MANIFEST_BYTES else b""


def _is_manifest_store(box: bytes) -> bool:
    return box[4:8] == b"jumb" and box[12:16] == b"jumd" and box[33:38] == b"c2pa\0"


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and payload of each segment of a JPEG before its pixels."""
    at = 2
    for _ in range(_MAX_PARTS):
        if at + 4 > len(content) or content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _SOI_LIKE:
            at += 2
        elif marker in (0xD9, 0xDA):
            return
        else:
            [size] = struct.unpack_from(">H", content, at + 2)
            yield marker, content[at + 4 : at + 2 + size]
            at += 2 + max(size, 2)


def _from_png(content: bytes, blocks: Blocks) -> None:
    at = 8
    for _ in range(_MAX_PARTS):
        if at + 8 > len(content):
            return
        size, kind = struct.unpack_from(">I4s", content, at)
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") and size <= MAX_BLOCK_BYTES:
            payload = content[at + 8 : at + 8 + size]
            if kind == b"eXIf":
                blocks.exif = blocks.exif or payload.removeprefix(b"Exif\0\0")
            elif len(blocks.text) < _MAX_TEXTS:
                _add_text(kind, payload, blocks)
        elif kind == b"caBX" and blocks.c2pa is None:
            blocks.c2pa = content[at + 8 : at + 8 + size] if size <= MAX_MANIFEST_BYTES else b""
        elif kind == b"IEND":
            return
        at += 12 + size


def _add_text(kind: bytes, payload: bytes, blocks: Blocks) -> None:
    """Adds the text of a PNG chunk by its keyword; the first of a keyword stays."""
    keyword, _, rest = payload.partition(b"\0")
    packed, encoding = kind == b"zTXt", "latin-1"
    if kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        _language, _, rest = rest[2:].partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
    elif packed:
        rest = rest[1:]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_BLOCK_BYTES)
        except zlib.error:
            return
    name = keyword.decode("latin-1")
    if name == _XMP_KEYWORD:
        blocks.xmp = blocks.xmp or rest
    else:
        blocks.text.setdefault(name, rest.decode(encoding, errors="replace"))


def _from_webp(content: bytes, blocks: Blocks) -> None:
    at = 12
    for _ in range(_MAX_PARTS):
        if at + 8 > len(content):
            return
        kind, size = struct.unpack_from("<4sI", content, at)
        payload = slice(at + 8, at + 8 + size)
        if kind == b"EXIF" and size <= MAX_BLOCK_BYTES:
            blocks.exif = blocks.exif or content[payload].removeprefix(b"Exif\0\0")
        elif kind == b"XMP " and size <= MAX_BLOCK_BYTES:
            blocks.xmp = blocks.xmp or content[payload]
        elif kind == b"C2PA" and blocks.c2pa is None:
            blocks.c2pa = content[payload] if size <= MAX_MANIFEST_BYTES else b""
        at += 8 + size + size % 2


def _from_avif(content: bytes, blocks: Blocks) -> None:
    at = 0
    for _ in range(_MAX_PARTS):
        if at + 8 > len(content):
            break
        size, kind = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            [size] = struct.unpack_from(">Q", content, at + 8)
            header = 16
        size = len(content) - at if size == 0 else max(size, header)
        start = at + header
        if kind == b"uuid" and content[start : start + 16] == _C2PA_UUID and blocks.c2pa is None:
            # Version and flags, a purpose, and eight bytes that say where a further box would be.
            start += 16 + 4
            if content[start:].startswith(_C2PA_PURPOSE):
                store = slice(start + len(_C2PA_PURPOSE) + 8, at + size)
                blocks.c2pa = content[store] if size <= MAX_MANIFEST_BYTES else b""
        at += size
    # Where an AVIF keeps its EXIF and XMP is a matter of references between boxes: that is libavif's.
    with AvifImageFile(io.BytesIO(content)) as image:
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
    blocks.exif = exif.removeprefix(b"Exif\0\0") if exif and len(exif) <= MAX_BLOCK_BYTES else None
    blocks.xmp = xmp if xmp and len(xmp) <= MAX_BLOCK_BYTES else None
