"""From where an image lies to its bytes, without Beam: `fetch_image`."""

import os

from mdmf_ops.beam.image import Image, ImageRef
from mdmf_ops.beam.storage import gcs, is_file_uri, is_gcs, local_path, open_file, read_error
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import Limits


def fetch_image(ref: ImageRef, limits: Limits) -> Image:
    """Reads an image's bytes, refusing too large a one before a byte of it is read.

    Returns:
        The bytes that were listed, or the error that says why there are none: never other bytes. Generation, size
        and time that the ref did not say are filled in.
    """
    try:
        if ref.error is not None:
            raise ref.error
        if ref.size_bytes is not None:
            limits.check_bytes(ref.size_bytes)
        if ref.inline:
            content = ref.message.data
        elif "://" in ref.uri and not ref.uri.startswith(("/", "gs://")) and not is_file_uri(ref.uri):
            raise ImageError(ErrorCode.BAD_URI, "local paths, file:///PATH and gs:// are read, nothing else")
        elif is_gcs(ref.uri):
            content, generation = gcs().read_object(ref, limits)
            ref = ref._replace(generation=generation)
        else:
            content, ref = _read_local(ref, limits)
        if ref.offset_bytes is not None and len(content) != ref.size_bytes:
            raise ImageError(ErrorCode.TRUNCATED, "the tar shard ends before the image does")
        limits.check_bytes(len(content))
        return Image(ref, content)
    except ImageError as error:
        return Image(ref, None, error)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Image(ref, None, read_error(error, ref))


def _read_local(ref: ImageRef, limits: Limits) -> tuple[bytes, ImageRef]:
    with open_file(ref.container) as file:
        before = os.fstat(file.fileno())
        if ref.message is not None and not _is_named(local_path(ref.container), before):
            raise ImageError(ErrorCode.CHANGED, "became a link since its message was read")
        if ref.modified_ns not in (None, before.st_mtime_ns):
            raise ImageError(ErrorCode.CHANGED, "written to since it was listed")
        if ref.offset_bytes is None:
            # One byte over the limit tells a file of unknown size, or one that grew, apart from one at the limit.
            content = file.read(limits.max_bytes + 1)
        else:
            file.seek(ref.offset_bytes)
            content = file.read(ref.size_bytes)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ImageError(ErrorCode.CHANGED, "written to while it was read")
    if ref.offset_bytes is None:
        if ref.modified_ns is not None and ref.size_bytes not in (None, after.st_size):
            raise ImageError(ErrorCode.CHANGED, f"{ref.size_bytes:,} bytes when listed, {after.st_size:,} when read")
        ref = ref._replace(size_bytes=after.st_size)
    return content, ref._replace(modified_ns=after.st_mtime_ns)


def _is_named(path: str, opened: os.stat_result) -> bool:
    """Whether what was opened is what a path without links names: the path was checked when its message was read."""
    return os.path.realpath(path) == path and os.path.samestat(os.lstat(path), opened)
