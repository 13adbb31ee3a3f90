"""A few tags of EXIF or TIFF, each read to a bound.

Pillow's reader takes every tag into memory at once: in a hostile block a thousand tags may each span all of it.
"""

import struct
from contextlib import suppress

DESCRIPTION, MAKE, MODEL, SOFTWARE = 0x010E, 0x010F, 0x0110, 0x0131
USER_COMMENT = 0x9286
TIFF_XMP, TIFF_C2PA = 0x02BC, 0xCD41

_MAX_TEXT_BYTES = 64 << 10
"""Of one tag of text; what is longer is cut."""

EXIF_DIRECTORY = 0x8769
_MAX_ENTRIES = 1024
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 13: 4, 16: 8, 18: 8}

# By the first bytes of a block: its order of bytes, and the formats of an offset and of a directory's count.
LAYOUTS = {
    b"II*\0": ("<", "I", "H"),
    b"MM\0*": (">", "I", "H"),
    b"II+\0": ("<", "Q", "Q"),  # BigTIFF
    b"MM\0+": (">", "Q", "Q"),
}
TIFF_STARTS = tuple(LAYOUTS)

_COMMENT_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"JIS\0\0\0\0\0": "shift_jis"}


def read_tags(content: bytes, wanted: dict[int, int]) -> dict[int, bytes]:
    """Values of tags in the first directory and in the EXIF directory, undecoded; of a damaged block, what can be read.

    Args:
        content: from the TIFF header on.
        wanted: most bytes to read of each tag.
    """
    if content[:4] not in LAYOUTS:
        return {}
    order, offset_format, count_format = LAYOUTS[content[:4]]
    inline_bytes = struct.calcsize(offset_format)
    entry = struct.Struct(f"{order}HH{offset_format}{offset_format}")
    found: dict[int, bytes] = {}
    with suppress(struct.error, OverflowError):  # a directory lies outside the block, or of any that could be
        starts = [*struct.unpack_from(order + offset_format, content, inline_bytes)]
        for start in filter(None, starts):  # the first, and EXIF's once that has named it; at 0 there is none
            [entries] = struct.unpack_from(order + count_format, content, start)
            first = start + struct.calcsize(count_format)
            for at in range(first, first + entry.size * min(entries, _MAX_ENTRIES), entry.size):
                tag, kind, values, offset = entry.unpack_from(content, at)
                size = values * _VALUE_BYTES.get(kind, 0)
                place = at + entry.size - inline_bytes if size <= inline_bytes else offset
                if tag == EXIF_DIRECTORY and len(starts) == 1:
                    value = content[place : place + min(size, inline_bytes)]
                    starts.append(int.from_bytes(value, "little" if order == "<" else "big"))
                elif tag in wanted and tag not in found:
                    found[tag] = content[place : place + min(size, wanted[tag])]
    return found


def read_texts(content: bytes) -> dict[int, str]:
    """The tags of text that tell of an image's making, decoded, by tag; what has no text is left out."""
    names = (DESCRIPTION, MAKE, MODEL, SOFTWARE, USER_COMMENT)
    tags = read_tags(content, dict.fromkeys(names, _MAX_TEXT_BYTES))
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
