"""Tar shards (WebDataset style): every file in one is an image of its own, read by its place in the shard.

Only headers are looked at here, though in a bucket they come in pieces of 8 MiB: a shard of smaller images is
downloaded to be listed. A member's bytes are one ranged read later, as any object's are, so that an image in a shard is
skipped, pinned and retried like the others. Compressed tars have no such places: they are no shards.
"""

import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO
from urllib.parse import quote

from mdmf_ops.beam.image import ImageRef, split_member
from mdmf_ops.beam.storage import open_file, read_error, store_errors
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.text import fits_a_line

_BLOCK_BYTES = 512
_KNOWN_KINDS = (*tarfile.SUPPORTED_TYPES, b"V", b"D")
"""With GNU tar's volume label and folder's contents; a member of any other kind it extracts as a file."""
_MAX_HEADER_BYTES = 16 << 10
"""Of what stands before a member: two paths of 4 KiB, and what else a system notes of a file. Headers can be made to
cost tarfile the square of their length: 0.2 s and 65 MB for these, 19 s and 4 GB for 128 KiB."""
_MAX_HEADER_BLOCKS = 2048
"""Of the same, block by block: each may name 21 pieces of a sparse file, all of which tarfile keeps. 5 MB for these."""
_MAX_SHARED_CHARS = 64 << 10
"""Of headers that hold for every member after them, and add up."""
_MAX_SHARD_BYTES = 8 << 40
"""More than any object has, and less than any file system refuses to seek to."""
_MAX_END_BYTES = 8 << 20
"""Of zeros at its end: most tars have 10 KiB. So much of a bucket is one request; a file of holes is read for days."""


def is_shard(uri: str) -> bool:
    """Whether a listed name is that of a shard: it must be opened to know what is in it."""
    return uri.lower().endswith(".tar") and split_member(uri)[1] is None


def list_members(shard: ImageRef) -> Iterator[ImageRef]:
    """Lists the images of a shard; one that is damaged or no tar gives a ref of its own that says so, last."""
    try:
        with open_file(shard.uri, shard.generation) as file:
            yield from _members(shard, file)
    except (OSError, *store_errors(shard.uri)) as error:
        yield shard._replace(error=read_error(error, shard))
    # All that tarfile raises of headers made to hurt it: numbers that are none, blocks cut short, chains of headers.
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        message = f"tar shard: {type(error).__name__}: {error}"
        yield shard._replace(error=ImageError(ErrorCode.CORRUPT, message))


def refuse_name_of_member(ref: ImageRef) -> ImageRef:
    """An object whose name reads as that of an image in a shard gets an error, and a URI that no image can have.

    Two images of one URI would be one row. In the name of a member `%` is followed by two hexadecimal digits.
    """
    if split_member(ref.uri)[1] is None:
        return ref
    reason = "an object's name with .tar# in it reads as that of an image in a shard: rename the object"
    return ref._replace(uri=f"{ref.uri}%object", error=ImageError(ErrorCode.BAD_URI, reason))


def _members(shard: ImageRef, file: BinaryIO) -> Iterator[ImageRef]:
    headers = _HeaderReader(file)
    end_bytes = 0
    with tarfile.open(fileobj=headers, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile keeps every header, and a shard may have a million
            _check_sizes(archive, member, end_bytes)
            end_bytes = archive.offset
            headers.left_bytes, headers.left_blocks = _MAX_HEADER_BYTES, _MAX_HEADER_BLOCKS
            if member.isreg() or member.islnk() or member.type not in _KNOWN_KINDS:
                ref = shard._replace(
                    uri=f"{shard.uri}#{_name(member.name)}",
                    size_bytes=member.size,
                    offset_bytes=member.offset_data,
                    crc32c=None,
                )
                if member.islnk():
                    reason = f"a hard link to {member.linkname} in the shard: it has no bytes of its own"
                    ref = ref._replace(size_bytes=None, error=ImageError(ErrorCode.UNREADABLE, reason))
                elif member.issparse():
                    ref = ref._replace(error=ImageError(ErrorCode.UNREADABLE, "a sparse file: its bytes are in pieces"))
                yield ref
        _check_end(file, archive.offset, shard.size_bytes)


def _check_end(file: BinaryIO, end_bytes: int, shard_bytes: int | None) -> None:
    """tarfile takes a damaged header, or any block of zeros, for the end, and would lose every image behind it.

    Args:
        end_bytes: where tarfile stopped.
        shard_bytes: of the shard; unknown, a bucket is asked once more for what may follow.
    """
    file.seek(end_bytes)
    left_bytes = _MAX_END_BYTES + 1
    if shard_bytes is not None:
        left_bytes = max(0, min(left_bytes, shard_bytes - end_bytes))
    end = file.read(left_bytes)
    if rest := end.lstrip(b"\0"):
        next_bytes = end_bytes + len(end) - len(rest)
        if next_bytes < end_bytes + _BLOCK_BYTES:
            raise tarfile.ReadError(f"damaged header at byte {end_bytes:,}")
        raise tarfile.ReadError(f"zeros at byte {end_bytes:,}, as at its end, but more at byte {next_bytes:,}")
    if len(end) > _MAX_END_BYTES:
        raise tarfile.ReadError(f"zeros from byte {end_bytes:,} on, more than end a tar")


def _check_sizes(archive: tarfile.TarFile, member: tarfile.TarInfo, end_bytes: int) -> None:
    """tarfile believes any size, a negative one too: it would list the same member without end (CVE-2025-8194).

    Args:
        end_bytes: where the member before it ended.
    """
    if not (0 <= member.size <= _MAX_SHARD_BYTES and end_bytes < archive.offset <= _MAX_SHARD_BYTES):
        raise tarfile.ReadError(f"a member of {member.size:,} bytes that ends at byte {archive.offset:,}")
    if sum(len(key) + len(value) for key, value in archive.pax_headers.items()) > _MAX_SHARED_CHARS:
        raise tarfile.ReadError(f"over {_MAX_SHARED_CHARS:,} characters of headers for all members")


def _name(name: str) -> str:
    """A member's name in a URI; no two names are the same there."""
    return name if fits_a_line(name) and "%" not in name else quote(os.fsencode(name))


class _HeaderReader:
    """A file of which only headers are read: tarfile would take one of gigabytes into memory.

    Attributes:
        left_bytes: how long the headers of the next member may be that are longer than a block, all together.
        left_blocks: how many reads of a block or less they may take.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.left_bytes, self.left_blocks = _MAX_HEADER_BYTES, _MAX_HEADER_BLOCKS

    def read(self, size: int) -> bytes:
        if size > _BLOCK_BYTES:
            self.left_bytes -= size
        else:
            self.left_blocks -= 1
        if size < 0 or self.left_bytes < 0:
            raise tarfile.ReadError(f"a header of {size:,} bytes, at most {_MAX_HEADER_BYTES:,} before a member")
        if self.left_blocks < 0:
            raise tarfile.ReadError(f"over {_MAX_HEADER_BLOCKS:,} blocks of headers before a member")
        return self._file.read(size)


def find_member(uri: str, shard: ImageRef) -> ImageRef:
    """The image `shard.tar#name` of a list, found in its shard.

    Args:
        shard: as `stat` gives it; without generation and time it was not there, and opening it says why.
    """
    found = _index(shard.uri, shard.generation, shard.modified_ns, shard.size_bytes)
    member = split_member(uri)[1]
    # The shard may be named in another way than its own URI. A place in one of no known version could be another's.
    ref = found.get(f"{shard.uri}#{member}")
    if ref is not None and (shard.generation, shard.modified_ns) != (None, None):
        return ref
    broken = found.get(shard.uri)
    error = broken.error if broken else ImageError(ErrorCode.NOT_FOUND, f"the shard has no {member!r}")
    return shard._replace(uri=uri, size_bytes=None, crc32c=None, error=error)


@lru_cache(maxsize=2)
def _index(uri: str, generation: int | None, modified_ns: int | None, size_bytes: int | None) -> dict[str, ImageRef]:
    """Every image of a shard by URI: those that are asked for after each other are of one shard."""
    return {ref.uri: ref for ref in list_members(ImageRef(uri, generation, size_bytes, modified_ns=modified_ns))}
