"""What lies in an output: its runs, whether they are whole, what belongs to none, and the newest row of an image."""

import heapq
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdmf_ops.beam.commit import read_manifests, sha256_of
from mdmf_ops.beam.run import MANIFEST_FOLDER, TEMPORARY_FOLDER
from mdmf_ops.beam.storage import StoredFile, delete, is_gcs, list_files, open_file
from mdmf_ops.schema import PARTITION

LATEST_COLUMNS = (
    *("row_id", "image_uri", "image_generation", "status", "error_code", "verdict", "p_value", "mmd2"),
    *("declared_source", "declared_by", "c2pa_signature", "run_id", "scanned_at", "detector_id"),
)

_BATCH_ROWS = 4096
_WITHOUT_LIMIT = 1 << 62


def verify_run(output: str, manifest: dict[str, Any]) -> list[str]:
    """Reads every file of a committed run; returns what is wrong, a line each: nothing where it is whole."""
    wrong = []
    rows = 0
    for file in manifest["files"]:
        path = f"{output}/{file['path']}"
        try:
            with open_file(path) as opened:
                digest = sha256_of(opened)
                if digest != file["sha256"]:
                    wrong.append(f"{path}: expected SHA-256 {file['sha256']}, found {digest}")
                    continue
                opened.seek(0)
                found = pq.read_metadata(opened).num_rows
        except FileNotFoundError:
            wrong.append(f"{path}: missing")
            continue
        if found != file["rows"]:
            wrong.append(f"{path}: expected {file['rows']} rows, found {found}")
        rows += found
    expected = manifest["inputs"] - manifest.get("skipped", 0)
    if not wrong and rows != expected:
        wrong.append(f"run {manifest['run_id']}: expected {expected} rows in all, found {rows}")
    return wrong


def strays(output: str, min_age_s: float = 0) -> list[StoredFile]:
    """Data files and temporaries that no manifest lists: what killed runs left, or a run now going on writes.

    Args:
        min_age_s: younger files are left out; a run now going on may commit them yet.
    """
    newest_ns = _WITHOUT_LIMIT if min_age_s == 0 else time.time_ns() - int(min_age_s * 1e9)
    # Files first: a run that commits in between is then found among the manifests.
    files = [file for prefix in (f"{PARTITION}=", f"{TEMPORARY_FOLDER}/") for file in list_files(output, prefix)]
    listed = {f"{output}/{file['path']}" for manifest in read_manifests(output) for file in manifest["files"]}
    return [file for file in files if file.path not in listed and file.modified_ns <= newest_ns]


def collect(output: str, files: Sequence[StoredFile]) -> None:
    """Deletes strays, and the local folders that they leave empty."""
    for file in files:
        delete(file.path)
        if not is_gcs(output):
            for folder in Path(file.path).relative_to(output).parents[:-1]:
                with suppress(OSError):  # not empty
                    Path(output, folder).rmdir()


def latest_rows(
    output: str, columns: Sequence[str] = LATEST_COLUMNS, manifests: Iterable[dict[str, Any]] | None = None
) -> Iterator[dict[str, Any]]:
    """The newest row of every image over all committed runs, by URI.

    Files are sorted by URI, so they are merged as they stream: memory holds a few thousand rows of each file.

    Args:
        columns: of the schema, image_uri and scanned_at among them.
        manifests: of the runs to read; None is every committed one.
    """
    with ExitStack() as stack:
        streams = [
            _stream(stack, f"{output}/{file['path']}", columns)
            for manifest in (read_manifests(output) if manifests is None else manifests)
            for file in manifest["files"]
        ]
        merged = heapq.merge(*streams, key=_uri)
        for _, rows in groupby(merged, key=_uri):
            yield max(rows, key=lambda row: row["scanned_at"])


def _uri(row: dict[str, Any]) -> str:
    return row["image_uri"]


def _stream(stack: ExitStack, path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    parquet = pq.ParquetFile(stack.enter_context(open_file(path)))
    unknown = dict.fromkeys(columns)
    for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
        # A column that the file's schema did not have yet is unknown.
        yield from (unknown | row for row in batch.to_pylist())


def find_rows(output: str, row_ids: Collection[str], manifests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every row of some runs that has one of these ids, with all columns of its file; newest run first.

    An id may have several rows: the same image under the same detector, in two runs or under two names. Only row
    groups in which an id occurs are read whole, a few thousand rows at a time.
    """
    wanted = pa.array(sorted(row_ids), pa.string())
    for manifest in sorted(manifests, key=lambda manifest: manifest["started_at"], reverse=True):
        for file in manifest["files"]:
            with open_file(f"{output}/{file['path']}") as opened:
                parquet = pq.ParquetFile(opened)
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, columns=["row_id"])["row_id"]
                    if pc.any(pc.is_in(ids, wanted)).as_py():
                        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                            yield from batch.filter(pc.is_in(batch["row_id"], wanted)).to_pylist()


def latest_sql(output: str) -> str:
    """The same for DuckDB: a query over the data files that the manifests list, whenever it is run."""
    root = output.replace("'", "''")
    return f"""\
with committed as (
  select '{root}/' || unnest(files).path as filename from read_json('{root}/{MANIFEST_FOLDER}/*.json')
)
select * exclude (filename)
from read_parquet(
  '{root}/{PARTITION}=*/*.parquet', hive_partitioning = true, union_by_name = true, filename = true
) as scores
semi join committed using (filename)
qualify row_number() over (partition by image_uri order by scanned_at desc) = 1
order by image_uri"""
