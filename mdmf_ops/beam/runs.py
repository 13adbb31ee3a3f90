"""What lies in an output: its runs, whether they are whole, what belongs to none, and the newest row of an image."""

import datetime
import glob
import math
import re
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdmf_ops.beam.commit import read_manifests, what_is_wrong
from mdmf_ops.beam.image import to_ns
from mdmf_ops.beam.run import DATA_FILE, MANIFEST_FOLDER, TEMPORARY_FILE, TEMPORARY_FOLDER
from mdmf_ops.beam.storage import StoredFile, delete, is_gcs, list_files, open_file
from mdmf_ops.schema import PARTITION, SCHEMA

_LATEST_COLUMNS = (
    *("row_id", "image_uri", "image_generation", "status", "error_code", "verdict", "p_value", "mmd2"),
    *("declared_source", "declared_by", "c2pa_signature", "run_id", "scanned_at", "detector_id"),
)

_NEWEST = ("image_generation", "scanned_at", "run_id")
"""By which of an image's rows the newest is known, highest first and none last. The message of an object that was
overwritten may come to a stream behind that of the newer one: its row says nothing of what is there."""

_FIRST_US, _LAST_US = (
    to_ns(moment.replace(tzinfo=datetime.timezone.utc)) // 1000
    for moment in (datetime.datetime.min, datetime.datetime.max)
)
"""Of Python's calendar: a damaged or hostile file may have times beyond it, which would cost every row of a batch."""

_BATCH_ROWS = 4096
_MOST_OPEN = 100
"""Data files that are read side by side. A process may usually open 1,024, and one in a bucket holds up to 8 MiB."""


def verify_run(output: str, manifest: dict[str, Any]) -> list[str]:
    """Reads every file of a committed run; returns what is wrong, a line each: nothing where it is whole."""
    wrong = []
    for file in manifest["files"]:
        path = f"{output}/{file['path']}"
        try:
            found = what_is_wrong(path, file["rows"], file["sha256"])
        except FileNotFoundError:
            found = f"{path}: missing"
        if found:
            wrong.append(found)
    rows = sum(file["rows"] for file in manifest["files"])
    expected = manifest["inputs"] - manifest.get("skipped", 0)
    if not wrong and rows != expected:
        wrong.append(f"run {manifest['run_id']}: expected {expected} rows in all, found {rows}")
    return wrong


def strays(output: str, min_age_s: float = 0) -> list[StoredFile]:
    """Data files and temporaries that no manifest lists: what killed runs left, or a run now going on writes.

    A run's claim is never among them. Without it a run stops at its commit, and nothing tells one that scores for days
    from one that was killed: a killed run leaves these 16 bytes until a run of the same id is committed. Nor is a file
    with a name that no run gives: it is somebody's own.

    Args:
        min_age_s: younger files are left out; a run now going on may commit them yet.

    Raises:
        OSError: a folder of the output may not be listed: what runs committed cannot be told.
    """
    of_a_run = re.compile(f"{DATA_FILE}|{TEMPORARY_FILE}")
    newest_ns = time.time_ns() - int(min_age_s * 1e9) if min_age_s else math.inf
    # Files first: a run that commits in between is then found among the manifests.
    files = [file for prefix in (f"{PARTITION}=", f"{TEMPORARY_FOLDER}/") for file in list_files(output, prefix)]
    listed = {f"{output}/{file['path']}" for manifest in read_manifests(output) for file in manifest["files"]}
    return [
        file
        for file in files
        if file.path not in listed
        and file.modified_ns <= newest_ns
        and of_a_run.fullmatch(file.path.removeprefix(f"{output}/"))
    ]


def collect(output: str, files: Sequence[StoredFile]) -> None:
    """Deletes strays, and the local folders that they leave empty."""
    for file in files:
        delete(file.path)
        if not is_gcs(output):
            for folder in Path(file.path).relative_to(output).parents[:-1]:
                with suppress(OSError):  # not empty
                    Path(output, folder).rmdir()


def latest_rows(
    output: str, columns: Sequence[str] = _LATEST_COLUMNS, manifests: Iterable[dict[str, Any]] | None = None
) -> Iterator[dict[str, Any]]:
    """The newest row of every image over all committed runs, by URI: the last of an object's newest generation.

    Files are sorted by URI, so they are merged as they stream: memory holds a few thousand rows of each open one. Of
    more than `_MOST_OPEN` files, so many at a time are merged into temporary ones first: some hundred bytes of disk for
    a row.

    Args:
        columns: of the schema, image_uri, image_generation, scanned_at and run_id among them.
        manifests: of the runs to read; None is every committed one. Of rows that were scanned at the same moment, that
            of the last run by name counts.

    Raises:
        OSError: a data file is missing, may not be read or is damaged; names it.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    paths = [
        f"{output}/{file['path']}"
        for manifest in (read_manifests(output) if manifests is None else manifests)
        for file in manifest["files"]
    ]
    with ExitStack() as stack:
        while len(paths) > _MOST_OPEN:
            folder = stack.enter_context(TemporaryDirectory(prefix="mdmf-"))
            groups = (paths[start : start + _MOST_OPEN] for start in range(0, len(paths), _MOST_OPEN))
            paths = [_write_newest(f"{folder}/{i}.parquet", group, schema) for i, group in enumerate(groups)]
        for table in _newest(paths, schema):
            for batch in table.to_batches(_BATCH_ROWS):
                yield from batch.to_pylist()


def _write_newest(path: str, paths: Sequence[str], schema: pa.Schema) -> str:
    with pq.ParquetWriter(path, schema) as writer:
        for table in _newest(paths, schema):
            writer.write_table(table)
    return path


def _newest(paths: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Merges files that are sorted by URI into tables that are, with the newest row of each URI alone."""
    streams = [_Stream(path, schema) for path in paths]
    last = schema.empty_table()
    while streams := [stream for stream in streams if stream.fill()]:
        # To here every file has said what it has, but for more rows of this very URI.
        bound = min(stream.last_uri for stream in streams)
        table = pa.concat_tables([last, *(stream.take(bound) for stream in streams)])
        table = table.sort_by([("image_uri", "ascending"), *((name, "descending") for name in _NEWEST)])
        uris = table["image_uri"].combine_chunks()
        is_first = pc.not_equal(uris[1:], uris[:-1])
        table = table.filter(pa.concat_arrays([pa.array([True]), is_first]))
        yield table.slice(0, table.num_rows - 1)
        last = table.slice(table.num_rows - 1)
    yield last


class _Stream:
    """The rows of one file as they are asked for; it is open while there are more."""

    def __init__(self, path: str, schema: pa.Schema):
        self._tables = read_tables(path, schema)
        self._ahead = schema.empty_table()
        self.last_uri = ""

    def fill(self) -> bool:
        """Reads on if every row was taken; whether there is one."""
        while not self._ahead.num_rows:
            ahead = next(self._tables, None)
            if ahead is None:
                return False
            self._ahead = ahead
        self.last_uri = self._ahead["image_uri"][-1].as_py()
        return True

    def take(self, bound: str) -> pa.Table:
        """Takes the rows up to this URI, it included."""
        number, uris = self._ahead.num_rows, self._ahead["image_uri"]
        if self.last_uri > bound:
            number = bisect_right(range(number), bound, key=lambda i: uris[i].as_py())
        taken, self._ahead = self._ahead.slice(0, number), self._ahead.slice(number)
        return taken


def read_tables(path: str, schema: pa.Schema, ids: pa.Array | None = None) -> Iterator[pa.Table]:
    """The rows of a data file, or those that have one of these ids, a few thousand at a time.

    Args:
        schema: columns of `SCHEMA`, in any order; row_id among them, where ids are asked for. A time beyond Python's
            calendar is its first or last moment.

    Raises:
        OSError: it is missing, may not be read or is damaged, which may show only as its rows are read; names it.
    """
    with _open_rows(path) as parquet:
        groups = [i for i in range(parquet.num_row_groups) if ids is None or _has_one(parquet, i, ids)]
        for batch in parquet.iter_batches(_BATCH_ROWS, groups, columns=schema.names):
            if ids is not None:
                batch = batch.filter(pc.is_in(batch["row_id"], ids))
            table = pa.table([_column(batch, field) for field in schema], schema=schema)
            for field in schema:
                if table[field.name].null_count and not field.nullable:
                    raise ValueError(f"a row without {field.name}")
            yield table


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)  # the file's schema did not have it yet: unknown
    column = batch[field.name]
    if not pa.types.is_timestamp(column.type):
        return column
    within = pc.min_element_wise(column.cast(pa.int64()), _LAST_US, skip_nulls=False)
    return pc.max_element_wise(within, _FIRST_US, skip_nulls=False).cast(column.type)


@contextmanager
def _open_rows(path: str) -> Iterator[pq.ParquetFile]:
    with open_file(path) as file:
        try:
            yield pq.ParquetFile(file)
        except (OSError, ValueError, pa.ArrowException) as error:  # none of Arrow's names a file
            raise OSError(f"{path}: damaged or out of reach: {error}") from error


def _has_one(parquet: pq.ParquetFile, group: int, ids: pa.Array) -> bool:
    return pc.any(pc.is_in(parquet.read_row_group(group, columns=["row_id"])["row_id"], ids)).as_py()


def find_rows(
    output: str,
    row_ids: Collection[str] | None,
    manifests: Iterable[dict[str, Any]],
    columns: Sequence[str] = tuple(SCHEMA.names),
) -> Iterator[dict[str, Any]]:
    """Every row of some runs, or every one that has one of these ids; newest run first.

    An id may have several rows: the same image under the same detector, in two runs or under two names. Only row
    groups in which an id occurs are read whole, a few thousand rows at a time.

    Args:
        row_ids: None is every row.
        columns: of the schema; row_id among them, where ids are asked for.

    Raises:
        OSError: a data file is missing, may not be read or is damaged; names it.
    """
    ids = None if row_ids is None else pa.array(sorted(row_ids), pa.string())
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    for manifest in sorted(manifests, key=lambda manifest: manifest["started_at"], reverse=True):
        for file in manifest["files"]:
            for table in read_tables(f"{output}/{file['path']}", schema, ids):
                yield from table.to_pylist()


def latest_sql(output: str, verdict: str | None = None) -> str:
    """The newest rows, or those of one verdict, for DuckDB: a query over the data files that the manifests list,
    whenever it is run."""
    root, found = (path.replace("'", "''") for path in (output, glob.escape(output)))
    condition = f" and verdict = '{verdict}'" if verdict else ""
    newest = ", ".join(f"{name} desc nulls last" for name in _NEWEST)
    return f"""\
with committed as (
  select '{root}/' || unnest(files).path as filename
  from read_json('{found}/{MANIFEST_FOLDER}/*.json', columns = {{files: 'struct(path varchar)[]'}})
)
select * exclude (filename), regexp_extract(filename, '{PARTITION}=([^/]*)/[^/]*$', 1)::date as {PARTITION}
from read_parquet(
  '{found}/{PARTITION}=*/*.parquet', hive_partitioning = false, union_by_name = true, filename = true
) as scores
semi join committed using (filename)
qualify row_number() over (partition by image_uri order by {newest}) = 1{condition}
order by image_uri"""
