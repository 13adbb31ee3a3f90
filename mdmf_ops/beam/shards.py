"""Tar shards (WebDataset style): every file in one is an image of its own, read by its place in the shard.

Only headers are looked at here. A member's bytes are one ranged read later, as any object's are, so that an image
in a shard is skipped, pinned and retried like the others. Compressed tars have no such places: they are no shards.
"""

import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO
from urllib.parse import quote

from mdmf_ops.beam.image import ImageRef, split_member
from mdmf_ops.beam.storage import gcs, is_gcs, local_path
from mdmf_ops.detector import ErrorCode, ImageError
from mdmf_ops.text import fits_a_line

_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20


def is_shard(uri: str) -> bool:
    """Whether a listed name is that of a shard: it must be opened to know what is in it."""
    return uri.lower().endswith(".tar")


def list_members(shard: ImageRef) -> Iterator[ImageRef]:
    """Lists the images of a shard; one that is damaged or no tar gives a ref of its own that says so, last."""
    try:
        with _open(shard) as file:
            yield from _members(shard, file)
    except (tarfile.TarError, OSError, ValueError, *_store_errors(shard)) as error:
        code = ErrorCode.NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorCode.CORRUPT
        yield shard._replace(error=ImageError(code, f"tar shard: {type(error).__name__}: {error}"))


def _open(shard: ImageRef) -> BinaryIO:
    if is_gcs(shard.uri):
        return gcs().open_object(shard.uri, shard.generation)
    return open(local_path(shard.uri), "rb")


def _store_errors(shard: ImageRef) -> tuple[type[Exception], ...]:
    return gcs().ERRORS if is_gcs(shard.uri) else ()


def _members(shard: ImageRef, file: BinaryIO) -> Iterator[ImageRef]:
    with tarfile.open(fileobj=_HeaderReader(file), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile keeps every header, and a shard may have a million
            if member.isreg():
                ref = shard._replace(
                    uri=f"{shard.uri}#{_name(member.name)}",
                    size_bytes=member.size,
                    offset_bytes=member.offset_data,
                    crc32c=None,
                )
                if member.issparse():
                    ref = ref._replace(error=ImageError(ErrorCode.UNREADABLE, "a sparse file: its bytes are in pieces"))
                yield ref
        # tarfile takes a damaged header for the end, and would lose every image behind it.
        file.seek(archive.offset)
        if file.read(_BLOCK_BYTES).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {archive.offset:,}")


def _name(name: str) -> str:
    return name if fits_a_line(name) else quote(os.fsencode(name))


class _HeaderReader:
    """A file of which only headers are read: tarfile would take one of gigabytes into memory."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes, at most {_MAX_HEADER_BYTES:,} are read")
        return self._file.read(size)


def find_member(uri: str, shard: ImageRef) -> ImageRef:
    """The image `shard.tar#name` of a list, found in its shard.

    Args:
        shard: as `stat` gives it.
    """
    found = _index(shard.uri, shard.generation, shard.modified_ns)
    if (ref := found.get(uri)) is not None:
        return ref
    broken = found.get(shard.uri)
    error = broken.error if broken else ImageError(ErrorCode.NOT_FOUND, f"the shard has no {split_member(uri)[1]!r}")
    return shard._replace(uri=uri, size_bytes=None, crc32c=None, error=error)


@lru_cache(maxsize=2)
def _index(uri: str, generation: int | None, modified_ns: int | None) -> dict[str, ImageRef]:
    """Every image of a shard by URI: a list names the images of one shard after each other."""
    return {ref.uri: ref for ref in list_members(ImageRef(uri, generation, modified_ns=modified_ns))}
