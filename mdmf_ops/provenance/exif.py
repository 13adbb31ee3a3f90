"""A few tags of EXIF or TIFF, each read to a bound.

Pillow's reader takes every tag into memory at once: in a hostile block a thousand tags may each span all of it.
"""

import struct

DESCRIPTION, MAKE, MODEL, SOFTWARE, ARTIST = 0x010E, 0x010F, 0x0110, 0x0131, 0x013B
USER_COMMENT = 0x9286
TIFF_XMP, TIFF_C2PA = 0x02BC, 0xCD41

MAX_TEXT_BYTES = 64 << 10
"""Of one tag of text; what is longer is cut."""

_EXIF_DIRECTORY = 0x8769
_MAX_ENTRIES = 1024
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 13: 4}

_COMMENT_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"JIS\0\0\0\0\0": "shift_jis"}


def read_tags(content: bytes, wanted: dict[int, int]) -> dict[int, bytes]:
    """Values of tags in the first directory and in the EXIF directory, undecoded; of a damaged block, what can be read.

    Args:
        content: from the TIFF header on.
        wanted: most bytes to read of each tag.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        return {}
    found: dict[int, bytes] = {}
    try:
        [start] = struct.unpack_from(order + "I", content, 4)
        further = _read_directory(content, order, start, wanted, found)
        if further is not None:
            _read_directory(content, order, further, wanted, found)
    except struct.error:  # a directory lies outside the block
        pass
    return found


def _read_directory(
    content: bytes, order: str, start: int, wanted: dict[int, int], found: dict[int, bytes]
) -> int | None:
    """Adds a directory's tags to `found`; gives where the EXIF directory starts, if it says so."""
    [entries] = struct.unpack_from(order + "H", content, start)
    further = None
    for at in range(start + 2, start + 2 + 12 * min(entries, _MAX_ENTRIES), 12):
        tag, kind, values, offset = struct.unpack_from(order + "HHII", content, at)
        if tag == _EXIF_DIRECTORY:
            further = offset
        elif tag in wanted and tag not in found:
            size = values * _VALUE_BYTES.get(kind, 0)
            place = at + 8 if size <= 4 else offset
            found[tag] = content[place : place + min(size, wanted[tag])]
    return further


def read_texts(content: bytes) -> dict[int, str]:
    """The tags of text that tell of an image's making, decoded, by tag; what has no text is left out."""
    names = (DESCRIPTION, MAKE, MODEL, SOFTWARE, ARTIST, USER_COMMENT)
    tags = read_tags(content, dict.fromkeys(names, MAX_TEXT_BYTES))
    texts = {tag: _comment(value) if tag == USER_COMMENT else _text(value) for tag, value in tags.items()}
    return {tag: text for tag, text in texts.items() if text}


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode("utf-8", errors="replace").strip()


def _comment(value: bytes) -> str:
    """A user comment: eight bytes name its encoding."""
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        # The standard leaves the order of bytes open, and writers differ: of text in Latin letters every other is zero.
        text = text[: len(text) // 2 * 2]
        big = text[0::2].count(0) > text[1::2].count(0)
        return text.decode("utf-16-be" if big else "utf-16-le", errors="replace").strip("\0 ")
    return text.decode(_COMMENT_ENCODINGS.get(code, "utf-8"), errors="replace").strip("\0 ")
