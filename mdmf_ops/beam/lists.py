"""Lists of images: a text file of one URI a line, or a column of a CSV or Parquet file; what none says is asked."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_ops.beam.image import ImageRef, split_member
from mdmf_ops.beam.shards import find_member, is_shard
from mdmf_ops.beam.storage import (
    direct_path,
    gcs,
    is_file_uri,
    is_gcs,
    is_object,
    local_path,
    local_ref,
    local_uri,
    open_file,
    read_error,
    store_errors,
)
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.text import fits_a_line, name_of_refused


def read_list(path: str, column: str = "uri") -> Iterator[ImageRef]:
    """Reads a list of images, a line or a batch at a time; nothing is asked of the images themselves.

    Args:
        path: absolute path or gs:// URI. A name in .csv or .parquet says that the list is one; any other is text.
        column: of the CSV or Parquet file.

    Raises:
        FileNotFoundError: the list is not there.
        ValueError: it has no such column, is no CSV or Parquet file, or lies in a bucket and names local files.
    """
    base = PurePosixPath(local_path(path)).parent
    for text in _entries(path, column):
        if text.strip():
            ref = _ref(text, base)
            if is_gcs(path) and not is_gcs(ref.uri) and ref.error is None:
                raise ValueError(f"{path}: names {text!r}: a list in a bucket may only name gs:// objects")
            yield ref


def _entries(path: str, column: str) -> Iterator[str]:
    with open_file(path) as file:
        if path.lower().endswith(".parquet"):
            try:
                parquet = pq.ParquetFile(file)
                _check_column(path, column, parquet.schema_arrow.names)
                for batch in parquet.iter_batches(columns=[column]):
                    # Of bytes: the name of a local file need not be UTF-8.
                    yield from (os.fsdecode(name or b"") for name in batch.column(0).cast(pa.binary()).to_pylist())
            except pa.ArrowException as error:
                raise ValueError(f"{path}: no text in column {column!r}: {error}") from error
            return
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        if path.lower().endswith(".csv"):
            rows = csv.DictReader(lines, strict=True)  # else an open quote swallows all lines behind it
            try:
                _check_column(path, column, rows.fieldnames or [])
                for row in rows:
                    if None in row:  # a comma without quotes: what stands in the column is a piece of a name
                        raise ValueError(f"{path}: line {rows.line_num}: more fields than columns: quote its commas")
                    if row[column] is None:
                        raise ValueError(f"{path}: line {rows.line_num}: ends before column {column!r}")
                    yield row[column]
            except csv.Error as error:
                raise ValueError(f"{path}: after line {rows.line_num}: {error}") from error
        else:
            yield from map(str.strip, lines)  # written by hand; a name with a space at its end needs a CSV


def _check_column(path: str, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise ValueError(f"{path}: no column {column!r}, but {', '.join(columns)}: name one with --list_column")


def _ref(text: str, base: PurePosixPath) -> ImageRef:
    printable = text.encode(errors="backslashreplace").decode()
    container, member = split_member(text)
    if is_gcs(text):
        fit = printable == text and is_object(container)
        return _named(container, member) if fit else _unfit(printable, "gs://BUCKET/NAME in UTF-8 is expected")
    if text.startswith("file://"):
        if not is_file_uri(text):
            return _unfit(printable, "file:///PATH, percent-encoded, is expected")
    elif "://" in text:
        return _unfit(printable, "local paths and gs:// are read, nothing else")
    path = str(base / local_path(container))
    if "\0" in f"{path}{member}":
        return _unfit(printable, "a null character")
    return _named(local_uri(direct_path(path)), member)


def _named(uri: str, member: str | None) -> ImageRef:
    """An image, or the one of that name in a shard, under the URI that its row has."""
    if member is None:
        return ImageRef(uri)
    return ImageRef(f"{uri}#{member if fits_a_line(member) else quote(os.fsencode(member))}")


def _unfit(uri: str, reason: str) -> ImageRef:
    return ImageRef(name_of_refused(uri), error=ImageError(ErrorCode.BAD_URI, reason))


def complete(ref: ImageRef) -> ImageRef:
    """Asks for what a list of URIs does not say: generation, size, time, place in a shard. One request an image.

    An image that cannot be asked about is returned as it is, and reading it says why; one in a shard with the error.
    """
    if ref.error or ref.generation is not None or ref.modified_ns is not None:
        return ref
    container, member = split_member(ref.uri)
    try:
        listed = gcs().stat_object(container) if is_gcs(container) else local_ref(local_path(container))
    except (ValueError, *store_errors(container)) as error:  # ValueError: no name
        return ref._replace(error=read_error(error, ref)) if is_shard(container) else ref
    if member is not None:
        listed = find_member(ref.uri, listed or ImageRef(container))
    return listed._replace(uri=ref.uri, attributes=ref.attributes) if listed else ref
