"""What makes a run's files a dataset: fixed names, whole files, a manifest written last.

Plain functions over `mdmf_ops.beam.storage`, so that a rule can be read and tested without a pipeline.
"""

import datetime
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdmf_ops import __version__
from mdmf_ops.beam.run import DATA_FILE, MANIFEST_FOLDER, Run
from mdmf_ops.beam.storage import delete, exists, is_gcs, list_files, open_file, publish
from mdmf_ops.schema import PARTITION, SCHEMA, SCHEMA_VERSION, to_table

_MANIFEST_FORMAT = 1
_ROW_GROUP_ROWS = 100_000
_KEYS = {
    **{"run_id": str, "scan_date": str, "started_at": str, "finished_at": str, "schema_version": str},
    **{"inputs": int, "counts": dict, "files": list},
}
_FILE_KEYS = {"path": str, "rows": int, "bytes": int, "sha256": str}
"""What every manifest says."""

_LATER_KEYS = {"skipped": int, "options": dict}
"""What later versions added and is read."""

_READS_AT_ONCE = 16
"""Manifests of a bucket: a stream writes 288 a day, and each is two requests."""

_COUNTED = ("status", "verdict", "error_code", "detector_id", "device", "precision")
_TIMED = ("decode_us", "score_us", "declared_us")

_DISTINCT = ("row_id", "image_uri", "image_sha256")
_DICTIONARY = [field.name for field in SCHEMA if field.name not in _DISTINCT and not pa.types.is_nested(field.type)]
"""Columns written by way of a dictionary. One of values that hardly recur, as evidence, makes the file larger, takes
twenty times as long, and 3 kB of memory a row."""


class CommitError(Exception):
    """The run must not be called complete. No manifest was written; a rerun of the same run id mends it."""


class ManifestError(Exception):
    """What lies among the manifests is none. Names the file."""


@dataclass(frozen=True)
class CommitOptions:
    """What the commit of a run asks and records.

    Attributes:
        max_failed_fraction: more failed images than this fraction of the inputs, those skipped among them, are fatal;
            None is no limit.
        recorded: options of the run, kept in the manifest as they are.
    """

    max_failed_fraction: float | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)


def write_shard(run: Run, shard: int, num_shards: int, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes one shard's rows as one Parquet file under its fixed name, and reads it back.

    Args:
        rows: in any order; they are sorted by image_uri.

    Returns:
        What the manifest says of the file, path (relative to the output), rows, bytes and sha256; and, to be
        added up, counts, timings and bytes_read, the size of the images whose bytes were read.

    Raises:
        SchemaError: a row does not fit.
        CommitError: what was read back is not what was written, or the run was started anew meanwhile, or its claim
            was deleted.
    """
    return write_table(run, shard, num_shards, to_table(sorted(rows, key=lambda row: row["image_uri"])))


def write_table(run: Run, shard: int, num_shards: int, table: pa.Table) -> dict[str, Any]:
    """Writes one shard as `write_shard` does, from a table of the schema that is sorted by image_uri."""
    name = run.data_file(shard, num_shards)
    with temporary_file(run) as path:
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=_DICTIONARY,
            row_group_size=_ROW_GROUP_ROWS,
            write_page_index=True,
            sorting_columns=[pq.SortingColumn(SCHEMA.get_field_index("image_uri"))],
        )
        with open(path, "rb") as file:
            digest = _sha256_of(file)
        size_bytes = path.stat().st_size
        _check_claim(run)
        publish(path, f"{run.output}/{name}")
    if wrong := what_is_wrong(f"{run.output}/{name}", table.num_rows, digest):
        raise CommitError(wrong)
    counts = {column: dict(Counter(table[column].drop_null().to_pylist())) for column in _COUNTED}
    read_bytes = table["image_bytes"].filter(table["image_sha256"].is_valid())
    return {
        **{"path": name, "rows": table.num_rows, "bytes": size_bytes, "sha256": digest},
        **{"counts": counts, "bytes_read": pc.sum(read_bytes).as_py() or 0},
        "timings": {
            column: [pc.sum(table[column]).as_py() or 0, pc.max(table[column]).as_py() or 0] for column in _TIMED
        },
    }


@contextmanager
def temporary_file(run: Run) -> Iterator[Path]:
    """A path for a file on its way: beside a local dataset, where a rename can move it, else the system's."""
    folder = Path(tempfile.gettempdir() if is_gcs(run.output) else run.temporary_folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mdmf-{uuid.uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def what_is_wrong(path: str, rows: int, digest: str) -> str | None:
    """Reads a whole data file; returns in a line how it differs from what it should be, None where it does not.

    Raises:
        FileNotFoundError: it is not there.
    """
    with open_file(path) as file:
        if (found := _sha256_of(file)) != digest:
            return f"{path}: expected SHA-256 {digest}, found {found}"
        file.seek(0)
        if (found := pq.read_metadata(file).num_rows) != rows:
            return f"{path}: expected {rows} rows, found {found}"
    return None


def _sha256_of(file: BinaryIO) -> str:
    """SHA-256, in hex, of a file from where it stands to its end."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def retract(run: Run) -> None:
    """Claims the run's id for this attempt, and takes back the manifest of an earlier run of the same id: its files are
    about to be replaced. An earlier attempt that still goes on writes nothing more. A manifest of this attempt stays: a
    service may repeat a step of a run that is over."""
    if run.attempt:
        with suppress(FileNotFoundError, ManifestError):
            if read_manifest(run).get("attempt") == run.attempt:
                return
        with temporary_file(run) as path:
            path.write_text(run.attempt)
            publish(path, run.claim_path)
    # By listing: it fails where the bucket is not there, before a night of scoring has gone by. By this one name: a
    # stream does it for every file, in an archive that grows.
    for file in list_files(run.output, f"{MANIFEST_FOLDER}/{run.run_id}.json"):
        if file.path == run.manifest_path:
            delete(file.path)


def _check_claim(run: Run) -> None:
    """Raises CommitError where another attempt under the same id has claimed it, or has committed it since, and where
    the claim was deleted: then another one may have been there too."""
    if not run.attempt:
        return
    try:
        with open_file(run.claim_path) as file:
            claimed = file.read().decode()
    except FileNotFoundError:
        if not exists(run.manifest_path):
            raise CommitError(
                f"run {run.run_id}: {run.claim_path} was deleted while it ran; nothing is committed, the same run id"
                " again starts anew"
            ) from None
        claimed = read_manifest(run).get("attempt")  # committed: by this attempt, if its commit is tried again
    if claimed != run.attempt:
        raise CommitError(f"run {run.run_id}: started anew while it ran; the newer one writes it, this one stops here")


def commit(
    run: Run, inputs: int, files: list[dict[str, Any]], options: CommitOptions, skipped: int = 0
) -> dict[str, Any]:
    """Checks that the run is whole, clears what earlier tries left, and writes the manifest last.

    Args:
        inputs: how many images went in.
        files: what `write_shard` returned for every file of the run.
        skipped: how many of the inputs need no row, since an earlier run's row holds.

    Returns:
        The manifest.

    Raises:
        CommitError: a row is missing or one too many, a file is missing, too many images failed, or the run was
            started anew meanwhile or its claim deleted.
    """
    _check_claim(run)
    rows = sum(file["rows"] for file in files)
    if rows != inputs - skipped:
        raise CommitError(f"run {run.run_id}: {inputs} images went in, {rows} rows came out, {skipped} were skipped")
    counts = _total(files)
    failed = counts["status"].get("failed", 0)
    limit = options.max_failed_fraction
    # Of the rows alone, one image that fails each night would be all of a night in which nothing else is new.
    if limit is not None and failed > limit * inputs:
        raise CommitError(
            f"run {run.run_id}: {failed} of {inputs} images failed, more than --max_failed_fraction={limit}:"
            f" {counts['error_code']}"
        )
    found = list_files(run.output, f"{PARTITION}=")  # whole: an earlier try may be of another day
    present = {file.path: file.size_bytes for file in found if run.owns(file.path)}
    for file in files:
        path = f"{run.output}/{file['path']}"
        if present.pop(path, None) != file["bytes"]:
            raise CommitError(f"{path}: written, but not there any more with its {file['bytes']} bytes")
    _check_claim(run)  # again: to list many files takes a while
    for path in sorted(present):
        delete(path)
    return write_manifest(run, inputs, files, options.recorded, skipped)


def write_manifest(
    run: Run, inputs: int, files: list[dict[str, Any]], recorded: Mapping[str, Any], skipped: int = 0
) -> dict[str, Any]:
    """Writes the manifest of a run whose files are known to be whole, and clears its temporaries; see `commit`."""
    manifest = {
        "format": _MANIFEST_FORMAT,
        "run_id": run.run_id,
        "attempt": run.attempt,
        "scan_date": run.scan_date,
        "started_at": run.started_at,
        "finished_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "inputs": inputs,
        "skipped": skipped,
        "bytes_read": sum(file["bytes_read"] for file in files),
        "counts": _total(files),
        "timings": {
            column: {
                "sum": sum(file["timings"][column][0] for file in files),
                "max": max((file["timings"][column][1] for file in files), default=0),
            }
            for column in _TIMED
        },
        "files": sorted(({key: file[key] for key in _FILE_KEYS} for file in files), key=lambda file: file["path"]),
        "options": recorded,
    }
    with temporary_file(run) as path:
        # In one line: BigQuery and Spark read JSON by the line.
        path.write_text(json.dumps(manifest) + "\n")
        publish(path, run.manifest_path)
    if is_gcs(run.output):
        if run.attempt:
            delete(run.claim_path)
    else:
        shutil.rmtree(run.temporary_folder)
        with suppress(OSError):  # another run's files are in it
            Path(run.temporary_folder).parent.rmdir()
    return manifest


def _total(files: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    return {
        column: dict(sorted(sum((Counter(file["counts"][column]) for file in files), Counter()).items()))
        for column in _COUNTED
    }


def read_manifest(run: Run) -> dict[str, Any]:
    """The manifest of a complete run."""
    return _parse(run.manifest_path)


def read_manifests(output: str) -> list[dict[str, Any]]:
    """Manifests of every complete run of an output, oldest first.

    Raises:
        ManifestError: one is damaged, or of a format that is not read here, or its rows are.
    """
    paths = (file.path for file in list_files(output, f"{MANIFEST_FOLDER}/") if file.path.endswith(".json"))
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        found = (pool.map if is_gcs(output) else map)(_parse_if_there, paths)
        manifests = [manifest for manifest in found if manifest is not None]
    return sorted(manifests, key=lambda manifest: (manifest["started_at"], manifest["run_id"]))


def _parse_if_there(path: str) -> dict[str, Any] | None:
    with suppress(FileNotFoundError):  # taken back since it was listed: its run is being replaced
        return _parse(path)
    return None


def _parse(path: str) -> dict[str, Any]:
    with open_file(path) as file:
        content = file.read()
    try:
        manifest = json.loads(content)
        if manifest["format"] != _MANIFEST_FORMAT:
            raise ManifestError(f"{path}: expected manifest format {_MANIFEST_FORMAT}, found {manifest['format']!r}")
        _expect(manifest, _KEYS | {key: kind for key, kind in _LATER_KEYS.items() if key in manifest})
        # Its rows would be read all the same, and a column that is called otherwise now would be taken for empty.
        if manifest["schema_version"].partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            found = manifest["schema_version"]
            raise ManifestError(f"{path}: its rows are of schema {found!r}, and {SCHEMA_VERSION} is read here")
        _expect(manifest["counts"], dict.fromkeys(("status", *manifest["counts"]), dict))
        for counts in manifest["counts"].values():
            _expect(counts, dict.fromkeys(counts, int))
        for file in manifest["files"]:
            _expect(file, _FILE_KEYS)
            if not re.fullmatch(DATA_FILE, file["path"]):
                raise ManifestError(f"{path}: {file['path']!r} is no name of a data file")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path}: not a manifest: {type(error).__name__}: {error}") from error
    return manifest


def _expect(found: dict[str, Any], kinds: Mapping[str, type]) -> None:
    for key, kind in kinds.items():
        if not isinstance(found[key], kind):
            raise TypeError(f"{key}: expected {kind.__name__}, found {found[key]!r}")
