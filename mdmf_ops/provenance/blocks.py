"""Where each format keeps its metadata: one walk over the headers, no pixel decoded, every loop and size bounded.

Pillow reads most of these blocks too, but not C2PA's, not what a PNG says after its pixels (where exiftool writes), and
not of an image whose pixels are broken. Nor does it bound what it reads: of an AVIF it makes a value of every EXIF tag.
"""

import struct
import zlib
from dataclasses import dataclass, field
from itertools import islice

from mdmf_ops.images.metadata import MAX_PIECES
from mdmf_ops.images.pieces import (
    EXIF_NAME,
    JPEG_APP1,
    JPEG_SCAN,
    boxes,
    container_of,
    jpeg_segments,
    png_chunks,
    riff_chunks,
)
from mdmf_ops.provenance.exif import TIFF_C2PA, TIFF_XMP, read_tags
from mdmf_ops.provenance.items import read_items

_MAX_BLOCK_BYTES = 1 << 20
"""Of EXIF, XMP and one text chunk: a larger one is not read, and of packed XMP no more is unpacked."""

_MAX_MANIFEST_BYTES = 16 << 20
"""Of a C2PA manifest store, which may hold thumbnails."""

_MAX_TEXTS = 32
"""Text chunks that are unpacked; a further one of a keyword that is known is none of them."""

_MAX_TEXT_BYTES = 256 << 10
"""Of each that are unpacked and kept: no mark of a generator is looked for beyond."""

_XMP_KEYWORD = "XML:com.adobe.xmp"
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_C2PA_PURPOSE = b"manifest\0"
_JPEG_APP11 = 0xEB


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
    """The metadata blocks of a file; of a damaged one, those before the damage. Of GIF and BMP none are read."""
    blocks = Blocks()
    container = container_of(content)
    if container == "JPEG":
        _from_jpeg(content, blocks)
    elif container == "PNG":
        _from_png(content, blocks)
    elif container == "WEBP":
        _from_webp(content, blocks)
    elif container == "TIFF":
        tags = read_tags(content, {TIFF_XMP: _MAX_BLOCK_BYTES, TIFF_C2PA: _MAX_MANIFEST_BYTES})
        blocks.exif, blocks.xmp, blocks.c2pa = content, tags.get(TIFF_XMP), tags.get(TIFF_C2PA)
    elif container == "ISO":
        _from_avif(content, blocks)
    return blocks


def _from_jpeg(content: bytes, blocks: Blocks) -> None:
    pieces: dict[bytes, list[tuple[int, bytes]]] = {}
    for marker, start, end in islice(jpeg_segments(content), MAX_PIECES):
        if marker == JPEG_SCAN:
            break
        payload = content[start:end]
        if marker == JPEG_APP1 and payload.startswith(EXIF_NAME) and blocks.exif is None:
            blocks.exif = payload[len(EXIF_NAME) :]
        elif marker == JPEG_APP1 and payload.startswith(_XMP_SEGMENT) and blocks.xmp is None:
            blocks.xmp = payload[len(_XMP_SEGMENT) :]
        elif marker == _JPEG_APP11 and payload.startswith(b"JP") and len(payload) > 16:
            [number] = struct.unpack_from(">I", payload, 4)
            pieces.setdefault(payload[2:4], []).append((number, payload[8:]))
    for parts in pieces.values():
        # Each piece repeats the header of the box that is cut over them; `number` says in which order they follow.
        parts.sort(key=lambda part: part[0])
        box = b"".join([parts[0][1], *(part[8:] for _, part in parts[1:])])
        if blocks.c2pa is None and _is_manifest_store(box):
            blocks.c2pa = _store(box, 0, len(box))


def _store(content: bytes, start: int, end: int) -> bytes:
    """A manifest store; nothing where it is too large to be read."""
    return content[start:end] if end - start <= _MAX_MANIFEST_BYTES else b""


def _is_manifest_store(box: bytes) -> bool:
    return box[4:8] == b"jumb" and box[12:16] == b"jumd" and box[33:38] == b"c2pa\0"


def _from_png(content: bytes, blocks: Blocks) -> None:
    unpacked = 0
    for kind, start, end in islice(png_chunks(content), MAX_PIECES):
        if kind == b"caBX" and blocks.c2pa is None:
            blocks.c2pa = _store(content, start, end)
        elif end - start > _MAX_BLOCK_BYTES:
            continue
        elif kind == b"eXIf":
            blocks.exif = blocks.exif or content[start:end].removeprefix(EXIF_NAME)
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and unpacked < _MAX_TEXTS:
            keyword, _, rest = content[start:end].partition(b"\0")
            name = keyword.decode("latin-1")
            if not (blocks.xmp if name == _XMP_KEYWORD else name in blocks.text):  # the first of a keyword stays
                unpacked += 1
                _add_text(kind, name, rest, blocks)


def _add_text(kind: bytes, name: str, rest: bytes, blocks: Blocks) -> None:
    """Adds the text of a PNG chunk by its keyword; `rest` is what follows that."""
    packed, encoding = kind == b"zTXt", "latin-1"
    most_bytes = _MAX_BLOCK_BYTES if name == _XMP_KEYWORD else _MAX_TEXT_BYTES
    if kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        _language, _, rest = rest[2:].partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
    elif packed:
        rest = rest[1:]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, most_bytes)
        except zlib.error:
            return
    if name == _XMP_KEYWORD:
        blocks.xmp = rest
    else:
        blocks.text[name] = rest[:most_bytes].decode(encoding, errors="replace")


def _from_webp(content: bytes, blocks: Blocks) -> None:
    for kind, start, end in islice(riff_chunks(content), MAX_PIECES):
        if kind == b"EXIF" and end - start <= _MAX_BLOCK_BYTES:
            blocks.exif = blocks.exif or content[start:end].removeprefix(EXIF_NAME)
        elif kind == b"XMP " and end - start <= _MAX_BLOCK_BYTES:
            blocks.xmp = blocks.xmp or content[start:end]
        elif kind == b"C2PA" and blocks.c2pa is None:
            blocks.c2pa = _store(content, start, end)


def _from_avif(content: bytes, blocks: Blocks) -> None:
    has_items = False
    for kind, start, end in islice(boxes(content), MAX_PIECES):
        if kind == b"uuid" and content[start : start + 16] == _C2PA_UUID and blocks.c2pa is None:
            # Version and flags, a purpose, and eight bytes that say where a further box would be.
            purpose = start + 16 + 4
            if content.startswith(_C2PA_PURPOSE, purpose):
                blocks.c2pa = _store(content, purpose + len(_C2PA_PURPOSE) + 8, end)
        elif kind == b"meta" and end - start <= _MAX_BLOCK_BYTES and not has_items:
            has_items = True  # of several the first: a few bytes of one may tell of thousands of extents
            exif, blocks.xmp = read_items(content, content[start:end], _MAX_BLOCK_BYTES)
            # Four bytes count what comes before the TIFF header: EXIF's name, or nothing.
            blocks.exif = exif and exif[4:].removeprefix(EXIF_NAME)
