"""Where an AVIF keeps its EXIF and XMP: items in its `meta` box (ISO 14496-12), which say themselves where they lie.

libavif reads them too, in C, of which a stranger's file had better see as little as it can outside of a decoder's
process; and Pillow, around it, takes every EXIF tag into memory at once.
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from mdmf_ops.images.metadata import MAX_PIECES
from mdmf_ops.images.pieces import boxes

_XMP_TYPE = b"application/rdf+xml"
_IN_FILE, _IN_META = 0, 1


def read_items(content: bytes, meta: bytes, max_bytes: int) -> tuple[bytes | None, bytes | None]:
    """The first EXIF item and the first XMP item of an AVIF, as they are; None for one that is not there.

    Args:
        content: the whole file.
        meta: what is in its `meta` box, bounded in size by the caller.
        max_bytes: of an item: of a larger one nothing is read.
    """
    parts: dict[bytes, bytes] = {}
    for kind, start, end in islice(boxes(meta[4:]), MAX_PIECES):
        if kind in (b"iinf", b"iloc", b"idat"):
            parts.setdefault(kind, meta[4 + start : 4 + end])
    first: dict[bytes, int] = {}
    for item, kind in _items(parts.get(b"iinf", b"")):
        first.setdefault(kind, item)
    extents = list(islice(_extents(parts.get(b"iloc", b"")), MAX_PIECES))
    sources = {_IN_FILE: content, _IN_META: parts.get(b"idat", b"")}

    def joined(kind: bytes) -> bytes | None:
        own = [extent for item, *extent in extents if item == first.get(kind) and extent[0] in sources]
        if not own or sum(end - start for _source, start, end in own) > max_bytes:
            return None
        return b"".join(sources[source][start:end] for source, start, end in own)

    return joined(b"Exif"), joined(_XMP_TYPE)


def _items(iinf: bytes) -> Iterator[tuple[int, bytes]]:
    """Number of each item, and its type; of one that has a MIME type, that."""
    head_bytes = 6 if iinf[:1] == b"\0" else 8
    for box, start, end in islice(boxes(iinf[head_bytes:]), MAX_PIECES):
        entry = iinf[head_bytes + start : head_bytes + end]
        if box == b"infe" and entry[:1] in (b"\2", b"\3"):
            number_end = 6 if entry[:1] == b"\2" else 8
            kind, texts = entry[number_end + 2 : number_end + 6], entry[number_end + 6 :]
            if kind == b"mime":
                _name, _, texts = texts.partition(b"\0")
                kind = texts.partition(b"\0")[0]
            yield int.from_bytes(entry[4:number_end], "big"), kind


def _extents(iloc: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Where items lie, as the box says itself: item, source, start and end of each stretch; none behind a cut.

    The source is the file (0), or the `idat` box of the `meta` box (1).
    """
    stream = io.BytesIO(iloc)

    def number(size_bytes: int) -> int:
        value = stream.read(size_bytes)
        if len(value) < size_bytes:
            raise EOFError
        return int.from_bytes(value, "big")

    with suppress(EOFError):
        version = number(4) >> 24
        sizes = number(2)
        offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_bytes = sizes & 15 if version else 0
        number_bytes = 2 if version < 2 else 4
        for _ in range(min(number(number_bytes), MAX_PIECES)):
            item = number(number_bytes)
            source = number(2) & 15 if version else _IN_FILE
            number(2)  # which file: no AVIF has a second one
            base = number(base_bytes)
            for _ in range(number(2)):
                number(index_bytes)
                start = base + number(offset_bytes)
                yield item, source, start, start + number(length_bytes)
