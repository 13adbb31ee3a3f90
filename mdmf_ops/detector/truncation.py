"""Whether a file ends before the image in it does, by what each format says of its own length.

Most cuts make Pillow fail; then `is_cut` tells a cut file, worth fetching again, from a damaged one. Some cuts Pillow
does not notice: `lacks_end` does, before anything is decoded.
"""

import struct

from PIL.ImageFile import ImageFile

_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND\xaeB`\x82"

# TIFF: bytes of a value of each type, and the tags that hold offsets and sizes of strips and of tiles.
_TIFF_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_STRIPS = ((273, 279), (324, 325))


def lacks_end(image: ImageFile, content: bytes) -> bool:
    """Whether the end mark of a JPEG or PNG, or the end of a TIFF's pixels, is not in the file.

    Args:
        image: opened and not loaded.
        content: the whole file.
    """
    if image.format == "JPEG":
        # Pillow stops at its first scan; a thumbnail's end lies before. A download that was never finished may end in
        # zeros, which decode to grey.
        return content.find(_JPEG_END, image.fp.tell()) < 0
    if image.format == "PNG":
        return _PNG_END not in content
    if image.format == "TIFF":
        # libtiff would refuse it too, but as damaged, and on the error output of the process.
        tags = image.tag_v2
        for offsets, sizes in _TIFF_STRIPS:
            strips = zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False)
            if any(offset + size > len(content) for offset, size in strips):
                return True
    return False


def is_cut(content: bytes) -> bool:
    """Whether a file that could not be decoded is shorter than it says itself, or lacks its end mark."""
    try:
        if content.startswith(b"\xff\xd8"):
            return _JPEG_END not in content
        if content.startswith(b"\x89PNG"):
            return _PNG_END not in content
        if content.startswith(b"GIF8"):
            return not content.endswith(b";")
        if content.startswith(b"RIFF"):
            return len(content) < 8 + struct.unpack_from("<I", content, 4)[0]
        if content.startswith((b"II*", b"MM\0*")):
            return len(content) < _tiff_directory_end(content)
        if content[4:8] == b"ftyp":
            return len(content) < _last_box_end(content) or b"mdat" not in content
    except struct.error:  # the length itself is cut off
        return True
    return False


def _tiff_directory_end(content: bytes) -> int:
    """Where the first directory of a TIFF ends, or the last of the values that it refers to."""
    order = "<" if content.startswith(b"II") else ">"
    [start] = struct.unpack_from(order + "I", content, 4)
    [count] = struct.unpack_from(order + "H", content, start)
    end = start + 2 + 12 * count + 4
    for entry in range(start + 2, end - 4, 12):
        _tag, kind, values, offset = struct.unpack_from(order + "HHII", content, entry)
        size = values * _TIFF_VALUE_BYTES.get(kind, 0)
        if size > 4:
            end = max(end, offset + size)
    return end


def _last_box_end(content: bytes) -> int:
    """Where the last box that an ISO media file begins would end."""
    end = 0
    while end < len(content):
        [size] = struct.unpack_from(">I", content, end)
        if size == 0:  # to the end of the file
            return len(content)
        if size == 1:  # too large for 32 bits: 64 follow
            [size] = struct.unpack_from(">Q", content, end + 8)
        end += max(size, 8)
    return end
