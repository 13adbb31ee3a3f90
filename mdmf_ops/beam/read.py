"""From what a user names to the bytes of every image in it: `MatchImages`, `FetchImages`, `ReadImages`.

Names and suffixes are not asked: a stranger chooses them. Every file of a folder is an input and gives a
row, were it one that says `unsupported_format`.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from mdmf_ops.detector import ErrorCode, ImageError, Limits
from mdmf_ops.progress import Progress

NAMESPACE = "mdmf"
"""Of every metric of ours."""


class ImageRef(NamedTuple):
    """Where one image lies, as listed.

    Attributes:
        uri: absolute local path, or URI. A local name that is not UTF-8 is a percent-encoded `file://` URI.
        generation: of the object that was listed; None where the store has none.
        size_bytes: as listed; None where unknown.
        attributes: the caller's own keys.
    """

    uri: str
    generation: int | None = None
    size_bytes: int | None = None
    attributes: dict[str, str] = {}  # noqa: RUF012  # never mutated


class Image(NamedTuple):
    """An image's bytes, or why there are none: exactly one of `content` and `error` is set."""

    ref: ImageRef
    content: bytes | None
    error: ImageError | None = None


def list_images(source: str) -> Iterator[ImageRef]:
    """Lists what a source names: a file, every file under a folder, or what a glob matches (`**` crosses `/`).

    Args:
        source: local path, or URI of a file system that Beam knows.

    Raises:
        FileNotFoundError: nothing is there.
    """
    found = False
    for ref in _list_local(source) if FileSystems.get_scheme(source) is None else _list_remote(source):
        found = True
        yield ref
    if not found:
        raise FileNotFoundError(f"{source}: nothing there: neither a file, nor a folder or glob with files in it")


def _list_local(source: str) -> Iterator[ImageRef]:
    # A name that exists is meant as it stands, brackets and stars included.
    if Path(source).is_dir():
        for folder, folders, names in os.walk(source, onerror=_raise):
            folders.sort()
            yield from (_local_ref(Path(folder, name)) for name in sorted(names))
    elif os.path.lexists(source):
        yield _local_ref(Path(source))
    else:
        paths = map(Path, sorted(glob.glob(source, recursive=True, include_hidden=True)))
        yield from (_local_ref(path) for path in paths if not path.is_dir())


def _raise(error: OSError) -> None:
    """A folder that cannot be listed hides images: the run must not go on without them."""
    raise error


def _local_ref(path: Path) -> ImageRef:
    path = path.absolute()
    try:
        uri = str(path)
        uri.encode()
    except UnicodeEncodeError:
        uri = path.as_uri()
    try:
        size_bytes = path.stat().st_size
    except OSError:
        size_bytes = None  # reading it will say why, in a row of its own
    return ImageRef(uri, size_bytes=size_bytes)


def _list_remote(source: str) -> Iterator[ImageRef]:
    pattern = source + "**" if source.endswith("/") else source
    [result] = FileSystems.match([pattern])
    if not result.metadata_list and not glob.has_magic(source):
        [result] = FileSystems.match([source.rstrip("/") + "/**"])
    for metadata in result.metadata_list:
        if not metadata.path.endswith("/"):
            yield ImageRef(metadata.path, size_bytes=metadata.size_in_bytes)


def fetch_image(ref: ImageRef, limits: Limits) -> Image:
    """Reads an image's bytes, refusing too large a one before a byte of it is read."""
    try:
        if ref.size_bytes is not None:
            limits.check_bytes(ref.size_bytes)
        with _open(ref.uri) as file:
            # One byte over the limit tells a file that grew, or one of unknown size, apart from one at the limit.
            content = file.read(limits.max_bytes + 1)
        limits.check_bytes(len(content))
        return Image(ref, content)
    except ImageError as error:
        return Image(ref, None, error)
    except (OSError, BeamIOError) as error:
        return Image(ref, None, ImageError(_io_code(error), f"{type(error).__name__}: {error}"))


def _open(uri: str):
    if FileSystems.get_scheme(uri) is None:
        return open(uri, "rb")
    if uri.startswith("file://"):
        return open(unquote_to_bytes(urlsplit(uri).path), "rb")
    # By name, Beam would unpack a .gz or .bz2: the bytes of the object are what is scored and hashed.
    return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)


def _io_code(error: Exception) -> ErrorCode:
    if isinstance(error, FileNotFoundError):
        return ErrorCode.NOT_FOUND
    return ErrorCode.FORBIDDEN if isinstance(error, PermissionError) else ErrorCode.UNREADABLE


class _ListDoFn(beam.DoFn):
    def __init__(self, progress: Progress | None):
        self._progress = progress
        self._listed = Metrics.counter(NAMESPACE, "images_listed")

    def process(self, source: str) -> Iterator[ImageRef]:
        for ref in list_images(source):
            self._listed.inc()
            if self._progress:
                self._progress.add("listed")
            yield ref


class _FetchDoFn(beam.DoFn):
    def __init__(self, limits: Limits):
        self._limits = limits
        self._bytes_read = Metrics.counter(NAMESPACE, "bytes_read")

    def process(self, ref: ImageRef) -> Iterator[Image]:
        image = fetch_image(ref, self._limits)
        self._bytes_read.inc(len(image.content or b""))
        yield image


class MatchImages(beam.PTransform):
    """Lists sources into one `ImageRef` per URI, spread over the workers.

    An image that two sources name is one image. The grouping by URI that sees to it also breaks fusion, so that
    the images of one large folder do not all stay on the worker that listed it.

    Args:
        sources: files, folders and globs, local or URIs.
        progress: where to count what was listed, for a terminal on this machine.
    """

    def __init__(self, sources: Sequence[str], progress: Progress | None = None):
        super().__init__()
        if not sources:
            raise ValueError("no sources: name at least one file, folder or glob")
        self._sources = list(sources)
        self._progress = progress

    def expand(self, pbegin):
        return (
            pbegin
            | "Sources" >> beam.Create(self._sources)
            | "List" >> beam.ParDo(_ListDoFn(self._progress))
            | "KeyByUri" >> beam.WithKeys(lambda ref: ref.uri).with_output_types(tuple[str, ImageRef])
            | "OnePerUri" >> beam.GroupByKey()
            | "First" >> beam.MapTuple(_first).with_output_types(ImageRef)
        )


def _first(_uri: str, refs) -> ImageRef:
    return next(iter(refs))


class FetchImages(beam.PTransform):
    """Reads the bytes of each `ImageRef`; an image that cannot be read goes on with its error."""

    def __init__(self, limits: Limits | None = None):
        super().__init__()
        self._limits = limits or Limits()

    def expand(self, refs):
        return refs | "Fetch" >> beam.ParDo(_FetchDoFn(self._limits)).with_output_types(Image)


class ReadImages(beam.PTransform):
    """`MatchImages` and `FetchImages` in one: sources to `Image`."""

    def __init__(self, sources: Sequence[str], limits: Limits | None = None):
        super().__init__()
        self._sources, self._limits = sources, limits

    def expand(self, pbegin):
        return pbegin | MatchImages(self._sources) | FetchImages(self._limits)
