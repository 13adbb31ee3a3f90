"""What makes a run's files a dataset: fixed names, whole files, a manifest written last.

Plain functions over Beam's FileSystems, so that a rule can be read and tested without a pipeline.
"""

import datetime
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from mdmf_ops.beam.run import Run
from mdmf_ops.schema import SCHEMA, SCHEMA_VERSION, to_table

MANIFEST_FORMAT = 1
_ROW_GROUP_ROWS = 100_000
_COUNTED = ("status", "verdict", "error_code")


class CommitError(Exception):
    """The run must not be called complete. No manifest was written; a rerun of the same run id mends it."""


@dataclass(frozen=True)
class CommitOptions:
    """What the commit of a run asks and records.

    Attributes:
        max_failed_fraction: more failed images than this fraction are fatal; None is no limit.
        recorded: options of the run, kept in the manifest as they are.
    """

    max_failed_fraction: float | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)


def write_shard(run: Run, shard: int, num_shards: int, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes one shard's rows as one Parquet file under its fixed name, and reads it back.

    Args:
        rows: in any order; they are sorted by image_uri.

    Returns:
        What the manifest says of the file: path (relative to the output), rows, bytes, sha256 and counts.

    Raises:
        SchemaError: a row does not fit.
        CommitError: what was read back is not what was written.
    """
    table = to_table(sorted(rows, key=lambda row: row["image_uri"]))
    name = run.data_file(shard, num_shards)
    with _temporary_file(run) as path:
        pq.write_table(
            table,
            path,
            compression="zstd",
            row_group_size=_ROW_GROUP_ROWS,
            sorting_columns=[pq.SortingColumn(SCHEMA.get_field_index("image_uri"))],
        )
        with open(path, "rb") as file:
            digest = _sha256(file)
        size_bytes = path.stat().st_size
        publish(path, f"{run.output}/{name}")
    _read_back(f"{run.output}/{name}", table.num_rows, digest)
    counts = {
        column: dict(Counter(value for value in table[column].to_pylist() if value is not None)) for column in _COUNTED
    }
    return {"path": name, "rows": table.num_rows, "bytes": size_bytes, "sha256": digest, "counts": counts}


@contextmanager
def _temporary_file(run: Run) -> Iterator[Path]:
    """A path for a file on its way: beside a local dataset, where a rename can move it, else the system's."""
    local = FileSystems.get_scheme(run.output) is None
    folder = Path(run.temporary_folder if local else tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mdmf-{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def publish(source: Path, destination: str) -> None:
    """Moves a whole local file to its place, where readers see all of it or nothing.

    A local rename replaces what is there in one step; an object store shows an object once its only write is
    closed.
    """
    if FileSystems.get_scheme(destination) is None:
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        source.replace(destination)
    else:
        with (
            open(source, "rb") as file,
            FileSystems.create(destination, compression_type=CompressionTypes.UNCOMPRESSED) as sink,
        ):
            shutil.copyfileobj(file, sink, 1 << 20)


def _read_back(path: str, rows: int, digest: str) -> None:
    with _open(path) as file:
        if (found := _sha256(file)) != digest:
            raise CommitError(f"{path}: expected SHA-256 {digest}, read back {found}")
        file.seek(0)
        if (found := pq.read_metadata(file).num_rows) != rows:
            raise CommitError(f"{path}: expected {rows} rows, read back {found}")


def _open(path: str) -> BinaryIO:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def retract(run: Run) -> None:
    """Takes back the manifest of an earlier run of the same id: its files are about to be replaced."""
    if FileSystems.exists(run.manifest_path):
        FileSystems.delete([run.manifest_path])


def commit(run: Run, inputs: int, files: list[dict[str, Any]], options: CommitOptions) -> dict[str, Any]:
    """Checks that the run is whole, clears what earlier tries left, and writes the manifest last.

    Args:
        inputs: how many images went in.
        files: what `write_shard` returned for every file of the run.

    Returns:
        The manifest.

    Raises:
        CommitError: a row is missing or one too many, a file is missing, or too many images failed.
    """
    rows = sum(file["rows"] for file in files)
    if rows != inputs:
        raise CommitError(f"run {run.run_id}: {inputs} images went in, {rows} rows came out")
    counts = {
        column: dict(sorted(sum((Counter(file["counts"][column]) for file in files), Counter()).items()))
        for column in _COUNTED
    }
    failed = counts["status"].get("failed", 0)
    limit = options.max_failed_fraction
    if limit is not None and failed > limit * inputs:
        raise CommitError(
            f"run {run.run_id}: {failed} of {inputs} images failed, more than --max_failed_fraction={limit}:"
            f" {counts['error_code']}"
        )
    present = {metadata.path: metadata.size_in_bytes for metadata in _data_files(run)}
    for file in files:
        path = f"{run.output}/{file['path']}"
        if present.pop(path, None) != file["bytes"]:
            raise CommitError(f"{path}: written, but not there any more with its {file['bytes']} bytes")
    if present:
        FileSystems.delete(sorted(present))
    manifest = {
        "format": MANIFEST_FORMAT,
        "run_id": run.run_id,
        "scan_date": run.scan_date,
        "started_at": run.started_at,
        "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "counts": counts,
        "files": sorted(
            ({key: value for key, value in file.items() if key != "counts"} for file in files),
            key=lambda file: file["path"],
        ),
        "options": options.recorded,
    }
    with _temporary_file(run) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n")
        publish(path, run.manifest_path)
    if FileSystems.get_scheme(run.output) is None:
        shutil.rmtree(run.temporary_folder)
        with suppress(OSError):  # another run's files are in it
            Path(run.temporary_folder).parent.rmdir()
    return manifest


def _data_files(run: Run) -> list[FileMetadata]:
    """Every data file of this run id in the dataset, of this try or an earlier one."""
    [result] = FileSystems.match([run.data_files_glob])
    return [metadata for metadata in result.metadata_list if run.owns(metadata.path)]


def read_manifest(run: Run) -> dict[str, Any]:
    """The manifest of a complete run."""
    with _open(run.manifest_path) as file:
        return json.loads(file.read())
