"""Files of the dataset, and what is read beside images, on local disk or Google Cloud Storage alike."""

import importlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from mdmf_ops.beam.image import ImageRef, split_member
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.text import fits_a_line, told

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OBJECT = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/(?!\.{1,2}$)([^\r\n]+)")
_MAX_NAME_BYTES = 1024


class StoredFile(NamedTuple):
    """One file, as listed: absolute path or URI, size, and when it was written (ns since 1970 UTC)."""

    path: str
    size_bytes: int
    modified_ns: int


def is_gcs(path: str) -> bool:
    """Whether a path is a gs:// URI."""
    return path.startswith("gs://")


def is_object(uri: str) -> bool:
    """Whether a URI names an object by the store's own rules: a bucket's name goes into the path of a request as it is.

    Raises:
        UnicodeEncodeError: half a surrogate pair.
    """
    match = _OBJECT.fullmatch(uri)
    return match is not None and len(match[1].encode()) <= _MAX_NAME_BYTES


def is_file_uri(uri: str) -> bool:
    """Whether a URI names a local file or folder, or an image in a local shard.

    What comes before the third slash, and from a question mark or number sign on, is no part of a path: another file
    would be read.
    """
    return fits_a_line(uri) and uri.startswith("file:///") and not re.search("[?#]", split_member(uri)[0])


def local_uri(path: str) -> str:
    """URI of an absolute local path: the path itself; percent-encoded where it is not UTF-8 or no line of text, or
    would read as the name of an image in a shard."""
    return path if fits_a_line(path) and split_member(path)[1] is None else Path(path).as_uri()


def gcs() -> ModuleType:
    """The module `mdmf_ops.beam.gcs`, imported when the first gs:// URI is met: it needs the extra of that name."""
    try:
        return importlib.import_module("mdmf_ops.beam.gcs")
    except ImportError as error:
        raise ImportError(f"gs:// needs Google's client: pip install 'mdmf-ops[gcp]' ({error})") from error


def store_errors(uri: str) -> tuple[type[Exception], ...]:
    """What the store of a URI may raise beside OSError once its retries are used up."""
    return gcs().ERRORS if is_gcs(uri) else ()


def read_error(error: Exception, ref: ImageRef) -> ImageError:
    """Why an image or its shard could not be read, as its row says it: of OSError, ValueError and `store_errors`."""
    if isinstance(error, store_errors(ref.uri)):
        return gcs().image_error(error, ref)
    code = ErrorCode.UNREADABLE
    if isinstance(error, FileNotFoundError):
        code = ErrorCode.NOT_FOUND
    elif isinstance(error, PermissionError):
        code = ErrorCode.FORBIDDEN
    return ImageError(code, f"{type(error).__name__}: {error}")


def absolute(path: str) -> str:
    """A local path made absolute, since workers need not share our folder; a URI as it is.

    Raises:
        ValueError: an empty name, or a URI that is neither gs:// nor file:///PATH.
    """
    if not path:
        raise ValueError("an empty name: the working directory is '.'")
    if not _SCHEME.match(path):
        return direct_path(str(Path(path).absolute()))
    if not path.startswith(("gs://", "file://")):
        raise ValueError(f"{told(path)}: local paths and gs:// are read and written, nothing else")
    if path.startswith("file://") and not is_file_uri(path):
        raise ValueError(f"{told(path)}: file:///PATH, percent-encoded, is expected")
    return path


def direct_path(path: str) -> str:
    """An absolute local path without `.`, `..` and `//`: however a file is named, it is one image.

    A link stays as it is named, unless `..` follows: that is the folder over what it leads to.
    """
    parts = PurePosixPath(path).parts[1:]
    if ".." not in parts:
        return f"/{'/'.join(parts)}"
    direct = PurePosixPath("/")
    for part in parts:
        if part != "..":
            direct /= part
        elif os.path.islink(direct):  # noqa: PTH114  # False where it cannot be told
            direct = PurePosixPath(os.path.realpath(direct)).parent
        else:
            direct = direct.parent
    return str(direct)


def local_path(uri: str) -> str:
    """Local path of a path or `file://` URI."""
    return os.fsdecode(unquote_to_bytes(urlsplit(uri).path)) if uri.startswith("file://") else uri


def open_file(path: str, generation: int | None = None) -> BinaryIO:
    """Opens a file, or an object of the generation if one is named, for reading, seekable. Raises FileNotFoundError."""
    if is_gcs(path):
        return gcs().open_object(path, generation)
    if not stat.S_ISREG(os.stat(local_path(path)).st_mode):  # noqa: PTH116
        raise OSError(f"{path}: not a file: a folder, or a pipe or device, which can be read only once")
    return open(local_path(path), "rb")


def exists(path: str) -> bool:
    """Whether a file is there."""
    return gcs().stat_object(path) is not None if is_gcs(path) else os.path.lexists(local_path(path))


def publish(source: Path, destination: str) -> None:
    """Moves or copies a whole local file to its place, where readers see all of it or nothing.

    A local rename replaces what is there in one step, and outlives a power cut; an object store shows an object once
    its only write is closed.
    """
    if is_gcs(destination):
        gcs().upload(source, destination)
        return
    folder = Path(destination).parent
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _sync(source)
    source.replace(destination)
    for named_in in (folder, *(made.parent for made in new)):
        with suppress(OSError):  # of a file system that cannot
            _sync(named_in)


def _sync(path: Path) -> None:
    """Waits until the disk has a file's content, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: str) -> None:
    """Deletes a file; one that is not there is no error."""
    if is_gcs(path):
        gcs().delete(path)
    else:
        Path(path).unlink(missing_ok=True)


def local_ref(path: str) -> ImageRef:
    """What a listing says of one local file; without size and time where it cannot be asked: reading says why."""
    uri = local_uri(path)
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path for each of a million files takes longer than its stat
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return ImageRef(uri)
    size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    return ImageRef(uri, size_bytes=size_bytes, modified_ns=status.st_mtime_ns)


def list_files(folder: str, prefix: str) -> Iterator[StoredFile]:
    """Lists every file under a folder whose path below it starts with `prefix`.

    Raises:
        OSError: what is there may not be listed. It is not empty, and whoever deletes would take it for that.
    """
    start = f"{folder}/{prefix}"
    if is_gcs(folder):
        for ref in gcs().list_objects(*gcs().split(start)):
            yield StoredFile(ref.uri, ref.size_bytes, ref.modified_ns)
        return
    top = start.rpartition("/")[0]
    folders = [top]
    while folders:
        below = folders.pop()
        for entry in _entries(below):
            if not entry.path.startswith(start):
                continue
            if entry.is_dir(follow_symlinks=below == top):  # a day may be kept on another disk
                folders.append(entry.path)
                continue
            with suppress(FileNotFoundError):  # a link to nothing, or deleted since
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    yield StoredFile(entry.path, status.st_size, status.st_mtime_ns)


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
