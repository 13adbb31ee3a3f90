"""A few tags of EXIF or TIFF, each read to a bound.

Pillow's reader takes every tag into memory at once: in a hostile block a thousand tags may each span all of it.
"""

from itertools import islice

from mdmf_ops.images.pieces import tiff_entries, tiff_number

DESCRIPTION, MAKE, MODEL, SOFTWARE = 0x010E, 0x010F, 0x0110, 0x0131
USER_COMMENT = 0x9286
TIFF_XMP, TIFF_C2PA = 0x02BC, 0xCD41

_MAX_TEXT_BYTES = 64 << 10
"""Of one tag of text; what is longer is cut."""

EXIF_DIRECTORY = 0x8769
_MAX_ENTRIES = 1024

_COMMENT_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"JIS\0\0\0\0\0": "shift_jis"}


def read_tags(content: bytes, wanted: dict[int, int]) -> dict[int, bytes]:
    """Values of tags in the first directory and in the EXIF directory, undecoded; of a damaged block, what can be read.

    Args:
        content: from the TIFF header on.
        wanted: most bytes to read of each tag.
    """
    found: dict[int, bytes] = {}
    directories: list[int | None] = [None]
    for start in directories:  # the first, and EXIF's once that has named it
        for entry in islice(tiff_entries(content, start), _MAX_ENTRIES):
            tag, first, end, _ = entry
            if tag == EXIF_DIRECTORY and len(directories) == 1:
                if end - first <= 8 and (place := tiff_number(content, entry)):  # at 0 there is none
                    directories.append(place)
            elif tag in wanted and tag not in found:
                found[tag] = content[first : min(end, first + wanted[tag])]
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
