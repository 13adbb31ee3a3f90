"""From what a user names to one `ImageRef` for every image in it: `MatchImages`.

Names and suffixes are not asked, unless a filter does: a stranger chooses them. Every file of a folder is an input
and gives a row, were it one that says `unsupported_format`. Only a name that ends in `.tar` is opened while
listing, for the images in it.

A listing streams: a page of a bucket or an entry of a folder at a time, so that memory does not grow with the
archive, and a large source is cut into parts that workers list side by side.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList, AsSingleton, PBegin, TaggedOutput

from mdmf_ops.beam.ahead import Ahead
from mdmf_ops.beam.filters import Filters
from mdmf_ops.beam.globs import compile_glob, fixed_folder, fixed_start, is_glob, may_hold
from mdmf_ops.beam.image import NAMESPACE, ImageRef, split_member
from mdmf_ops.beam.lists import complete, read_list
from mdmf_ops.beam.shards import is_shard, list_members, refuse_name_of_member
from mdmf_ops.beam.storage import absolute, direct_path, gcs, is_gcs, local_path, local_ref
from mdmf_ops.progress import Progress

_PARTS = 64
"""A prefix of a bucket is cut into about this many parts, each at least a request. A local folder is cut at every
folder in it: a year of daily folders lists in parallel."""


class Part(NamedTuple):
    """What one worker lists in one go.

    Attributes:
        source: as the user named it.
        root: file, folder, or gs:// prefix.
        start, end: of a prefix, only object names from `start` on and before `end`; empty is no bound.
        recursive: whether folders in `root` belong to the part.
    """

    source: str
    root: str
    start: str = ""
    end: str = ""
    recursive: bool = True


def split_source(source: str) -> Iterable[Part]:
    """Cuts a source into parts that together are all of it and do not overlap.

    Args:
        source: a file, a folder, or a glob (`**` crosses folders), local or gs://.

    Raises:
        FileNotFoundError: nothing is there.
    """
    source = absolute(source)
    return _split_gcs(source) if is_gcs(source) else _split_local(source)


def _split_local(source: str) -> Iterator[Part]:
    path, pattern = _local_source(source), None
    # A name that exists is meant as it stands, brackets and stars included.
    if Path(path).is_dir():
        root = path
    elif os.path.lexists(path):
        yield Part(source, path)
        return
    elif glob.has_magic(path):
        root, pattern = fixed_folder(path), path
    else:
        raise _nothing(source)
    if not Path(root).is_dir():
        raise _nothing(source)
    for entry in _entries(root, root):
        if entry.is_dir(follow_symlinks=False) and may_hold(entry.path, pattern):
            yield Part(source, entry.path)
    yield Part(source, root, recursive=False)  # last: it finds out if the root was deleted meanwhile


def _local_source(source: str) -> str:
    return direct_path(local_path(source))


def _split_gcs(source: str) -> list[Part]:
    bucket, name = gcs().split(source)
    parts, root = [], _folder(source)
    if name and not name.endswith("/") and gcs().stat_object(source):
        parts = [Part(source, source)]  # and what lies under its name: an object beside a folder must not hide it
    elif is_glob(name):
        root = f"gs://{bucket}/{fixed_start(name)}"
    bounds = ["", *gcs().cut(*gcs().split(root), _PARTS), ""]
    return [*parts, *(Part(source, root, start, end) for start, end in pairwise(bounds))]


def _folder(name: str) -> str:
    return name if name.endswith("/") else f"{name}/"


def list_part(part: Part) -> Iterator[ImageRef]:
    """Lists the files of a part; a tar shard is one."""
    return map(refuse_name_of_member, _list_gcs(part) if is_gcs(part.source) else _list_local(part))


def _list_gcs(part: Part) -> Iterator[ImageRef]:
    if part.root == part.source and not part.root.endswith("/"):
        ref = gcs().stat_object(part.source)
        yield from [ref] if ref else []
        return
    bucket, prefix = gcs().split(part.root)
    for ref in gcs().list_objects(bucket, prefix, part.start, part.end):
        # Under a name as it stands, brackets and stars included, or matched by it.
        if ref.uri.startswith(_folder(part.source)) or compile_glob(part.source).fullmatch(ref.uri):
            yield ref


def _list_local(part: Part) -> Iterator[ImageRef]:
    path = _local_source(part.source)
    if part.root == path and os.path.lexists(path) and not Path(path).is_dir():
        yield local_ref(path)
        return
    pattern = None if _folder(part.root).startswith(_folder(path)) else path
    top, matches = (fixed_folder(path), compile_glob(path)) if pattern else (path, None)
    folders = [part.root]
    while folders:
        for entry in _entries(folders.pop(), top):
            if entry.is_dir(follow_symlinks=False):
                if part.recursive and may_hold(entry.path, pattern):
                    folders.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112  # False where it cannot be told
                continue
            elif matches is None or matches.fullmatch(entry.path):
                yield local_ref(entry.path)


def _entries(folder: str, top: str) -> Iterator[os.DirEntry]:
    """Entries of a folder under `top`. One that may not be listed hides images: the run must not go on."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:  # deleted since it was found, and its images with it; all of the source is another matter
        if not Path(top).is_dir():
            raise
        return
    with entries:
        yield from entries


def _nothing(source: str) -> FileNotFoundError:
    return FileNotFoundError(f"{source}: nothing there: neither a file, nor a folder or glob with files in it")


def list_images(source: str) -> Iterator[ImageRef]:
    """Lists a source in this process.

    Raises:
        FileNotFoundError: nothing is there.
    """
    found = False
    for ref in chain.from_iterable(map(list_part, split_source(source))):
        for image in list_named(ref, ask=False):
            found = True
            yield image
    if not found:
        raise _nothing(source)


def file_of(ref: ImageRef) -> str:
    """URI of the file that an image lies in: its own, or its shard's."""
    return split_member(ref.uri)[0]


def list_named(ref: ImageRef, ask: bool) -> Iterable[ImageRef]:
    """A file or an entry of a list as images: itself, or those in it if it is a shard.

    Args:
        ask: for what the entry does not say, one request; an image in a shard has no place without.
    """
    if ask or is_shard(file_of(ref)):
        ref = complete(ref)
    return list_members(ref) if is_shard(ref.uri) and ref.error is None else [ref]


class _ListDoFn(beam.DoFn):
    """Parts to refs that the filters admit, and to `shards` beside the source that each is of.

    A source of which there is an image is also `found`.
    """

    def __init__(self, filters: Filters, progress: Progress | None):
        self._filters = filters
        self._progress = progress
        self._listed = Metrics.counter(NAMESPACE, "images_listed")
        self._left_out = Metrics.counter(NAMESPACE, "images_left_out")

    def process(self, part: Part) -> Iterator[ImageRef]:
        yield from self._images(part.source, list_part(part))

    def _images(self, source: str | None, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        found = source is None
        for ref in refs:
            if is_shard(ref.uri) and ref.error is None:
                yield TaggedOutput("shards", (source, ref))
                continue
            if not found:
                yield TaggedOutput("found", source)
                found = True
            yield from self._admit(ref)

    def _admit(self, ref: ImageRef) -> Iterator[ImageRef]:
        if self._filters.admit(ref):
            self._listed.inc()
            if self._progress:
                self._progress.add("listed")
            yield ref
        else:
            self._left_out.inc()
            # The last of two members of one name is the image: left out for its size, it goes on to hide the other one.
            if ref.offset_bytes is not None and self._filters.admit(ref._replace(size_bytes=None)):
                yield ref


class _ListNamedDoFn(Ahead[ImageRef], _ListDoFn):
    """Shards beside their sources, and entries of lists beside None, grouped by file, to refs of images."""

    def __init__(self, ask: bool, filters: Filters, progress: Progress | None):
        super().__init__(filters, progress)
        self._ask = ask or filters.ask_more_than_the_name

    def process(
        self,
        group: tuple[str, Iterable[tuple[str | None, ImageRef]]],
        timestamp=beam.DoFn.TimestampParam,
        window=beam.DoFn.WindowParam,
    ) -> Iterator[ImageRef]:
        file, named = group
        for source, ref in named:
            if self._ask and not is_shard(file):
                yield from self.begin(complete, ref, timestamp=timestamp, window=window)
            else:
                yield from self._images(source, list_named(ref, ask=False))

    def end(self, result: ImageRef) -> Iterator[ImageRef]:
        yield from self._images(None, [result])


class MatchImages(beam.PTransform):
    """Lists sources into one `ImageRef` per URI, spread over the workers.

    An image that two sources name is one image. The grouping by URI that sees to it also breaks fusion, so that
    the images of one large folder do not all stay on the worker that listed it.

    Args:
        sources: files, folders and globs, local or gs://.
        lists: files that each name one image a line (text) or row (CSV, Parquet); see `read_list`.
        column: of the CSV and Parquet lists.
        filters: which images are inputs.
        complete_lists: ask for generation, size and time of images in lists, one request each.
        progress: where to count what was listed, for a terminal on this machine.
    """

    def __init__(
        self,
        sources: Sequence[str],
        progress: Progress | None = None,
        *,
        lists: Sequence[str] = (),
        column: str = "uri",
        filters: Filters | None = None,
        complete_lists: bool = False,
    ):
        super().__init__()
        if isinstance(sources, str) or isinstance(lists, str):
            raise ValueError("sources and lists are lists of names: one name alone would be taken for its letters")
        if not sources and not lists:
            raise ValueError("no sources: name at least one file, folder, glob or list")
        self._sources = [absolute(source) for source in sources]
        self._lists = [absolute(path) for path in lists]
        self._column = column
        self._filters = filters or Filters()
        self._complete_lists = complete_lists
        self._progress = progress

    def display_data(self) -> dict[str, str]:
        return {"sources": " ".join(self._sources), "lists": " ".join(self._lists)}

    def expand(self, pbegin: PBegin) -> beam.PCollection[ImageRef]:
        listing = self._filters, self._progress
        listed = (
            pbegin
            | "Sources" >> beam.Create(self._sources, reshuffle=False)
            | "Split" >> beam.FlatMap(split_source).with_output_types(Part)
            | "SpreadParts" >> beam.Reshuffle()
            | "List" >> beam.ParDo(_ListDoFn(*listing)).with_outputs("found", "shards", main="refs")
        )
        entries = (
            pbegin
            | "Lists" >> beam.Create(self._lists)
            | "ReadLists" >> beam.FlatMap(read_list, self._column)
            | "OfNoSource" >> beam.WithKeys(None)
        )
        named = (
            (listed.shards, entries)
            | "ShardsAndEntries" >> beam.Flatten()
            # By file: a shard of which a list names images is listed once, and those of a folder by several workers.
            | "SpreadNamed" >> beam.GroupBy(lambda named: file_of(named[1]))
            | "Named" >> beam.ParDo(_ListNamedDoFn(self._complete_lists, *listing)).with_outputs("found", main="refs")
        )
        found = (listed.found, named.found) | "Found" >> beam.Flatten() | beam.Distinct()
        checked = (
            pbegin
            | "Once" >> beam.Create([None], reshuffle=False)
            | "CheckFound" >> beam.Map(_check_found, self._sources, AsList(found))
        )
        return (
            (listed.refs, named.refs)
            | beam.Flatten()
            | "KeyByUri" >> beam.WithKeys(lambda ref: ref.uri).with_output_types(tuple[str, ImageRef])
            | "OnePerUri" >> beam.GroupByKey()
            | "Newest" >> beam.FlatMap(_newest, self._filters, AsSingleton(checked)).with_output_types(ImageRef)
        )


def _check_found(_once: None, sources: list[str], found: list[str]) -> None:
    """A source in which nothing is fails the run: a typing error must not look like an empty archive."""
    for source in sources:
        if source not in found:
            raise _nothing(source)


def _newest(group: tuple[str, Iterable[ImageRef]], filters: Filters, _checked: None) -> list[ImageRef]:
    """Of several listings of one URI the newest; of two members of one name in a shard the last, as tar has it."""
    newest = max(group[1], key=lambda ref: (ref.generation or 0, ref.modified_ns or 0, ref.offset_bytes or 0))
    return [newest] if filters.admit(newest) else []
