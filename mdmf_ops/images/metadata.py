"""How much a file says beside its pixels, counted before a decoder reads a word of it.

Pillow reads metadata as it opens a file, piece by piece: millions of empty pieces, or a directory of which every entry
points to the same megabytes, would cost minutes and gigabytes before the first pixel.
"""

from collections.abc import Iterator
from itertools import repeat

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.pieces import (
    JPEG_COMMENT,
    JPEG_END,
    JPEG_SCAN,
    boxes,
    container_of,
    gif_blocks,
    jpeg_segments,
    png_chunks,
    riff_chunks,
    tiff_entries,
)

MAX_PIECES = 20_000
"""Of one file. A PNG of 64 MiB in chunks of 8 KiB has 8,192."""

_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"fcTL", b"fdAT")
_NUMBER_BYTES = 64
"""A number of a directory counts as so many bytes, for Pillow makes an object of each."""


def check_metadata(content: bytes, max_bytes: int, max_scans: int) -> None:
    """Raises ImageError for a file with too much beside its pixels, or a JPEG in too many scans.

    Args:
        content: the whole file.
        max_bytes: of metadata; a value that two directory entries point to counts twice.
        max_scans: of a JPEG: each one goes over all of its pixels.
    """
    total_bytes, scans = 0, 0
    for number, (size_bytes, is_scan) in enumerate(_sizes(content), start=1):
        total_bytes += size_bytes
        scans += is_scan
        if total_bytes > max_bytes:
            raise ImageError(ErrorCode.TOO_MUCH_METADATA, f"at most {max_bytes:,} bytes of metadata are read")
        if number > MAX_PIECES:
            raise ImageError(ErrorCode.TOO_MUCH_METADATA, f"the file is in more than {MAX_PIECES:,} pieces")
        if scans > max_scans:
            raise ImageError(ErrorCode.TOO_MANY_SCANS, f"a JPEG in more than {max_scans} scans")


def _sizes(content: bytes) -> Iterator[tuple[int, bool]]:
    """Bytes of metadata in each piece of a file, and whether the piece begins a scan of a JPEG."""
    container = container_of(content)
    if container == "JPEG":
        position, in_head = 2, True
        for segment in jpeg_segments(content):
            marker = segment.kind
            if in_head and marker == JPEG_END:
                # A reader that goes on behind it would read what is not counted here.
                raise ImageError(ErrorCode.CORRUPT, "a JPEG that ends before its first scan")
            if in_head:
                yield from _strays(segment.marker_start - position)
            is_metadata = 0xE0 <= marker <= 0xEF or marker == JPEG_COMMENT
            yield segment.size_bytes if is_metadata else 0, marker == JPEG_SCAN
            position, in_head = segment.end, in_head and marker != JPEG_SCAN
        if in_head:
            yield from _strays(len(content) - position)
    elif container == "PNG":
        for kind, start, end in png_chunks(content):
            # Stray bytes may say any size.
            yield 0 if kind in _PNG_PIXELS else min(end, len(content)) - start, False
    elif container == "WEBP":
        for kind, start, end in riff_chunks(content):
            yield end - start if kind in (b"EXIF", b"XMP ", b"ICCP") else 0, False
    elif container == "GIF":
        for kind, start, end in gif_blocks(content):
            yield from ((end - start, False),) if kind else _strays(end - start)
    elif container == "TIFF":
        for entry in tiff_entries(content):
            yield max(entry.end - entry.start, _NUMBER_BYTES * entry.numbers), False
    elif container == "ISO":
        yield from ((0 if box.kind == b"mdat" else box.size_bytes, False) for box in boxes(content))


def _strays(count: int) -> Iterator[tuple[int, bool]]:
    """So many bytes that belong to nothing: Pillow skips them one by one, so that each is a piece."""
    return repeat((0, False), min(count, MAX_PIECES + 1))
