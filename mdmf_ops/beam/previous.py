"""`SkipUnchanged`: leaves out the images that an earlier run settled, so that a nightly scan reads what is new.

Both sides are grouped by URI: neither the archive nor its past must fit in a worker's memory.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from mdmf_ops.beam.commit import ManifestError, read_manifest, read_manifests
from mdmf_ops.beam.image import NAMESPACE, ImageRef, to_ns
from mdmf_ops.beam.load import read_id
from mdmf_ops.beam.run import Run, dataset_root
from mdmf_ops.beam.runs import read_tables
from mdmf_ops.beam.storage import is_gcs
from mdmf_ops.errors import ErrorCode
from mdmf_ops.progress import Progress
from mdmf_ops.schema import SCHEMA

_OF_THE_MOMENT = (ErrorCode.OUT_OF_MEMORY.value, ErrorCode.TIMEOUT.value, ErrorCode.INTERNAL.value)
"""Failures after the bytes were read that another try may not see."""

_BY_SIZE = (ErrorCode.EMPTY.value, ErrorCode.TOO_MANY_BYTES.value)
"""Failures that follow from the size alone, before a byte is read: another try would see them again, every night."""

_COLUMNS = (
    *("image_uri", "image_generation", "image_bytes", "image_modified_at", "image_sha256"),
    *("detector_id", "error_code", "scanned_at"),
)
_SCHEMA = pa.schema([SCHEMA.field(name) for name in _COLUMNS])


class Seen(NamedTuple):
    """What an earlier row says of one image.

    Attributes:
        settled: the row follows from bytes (or their number) and detector: reading again would give it again.
    """

    scanned_ns: int
    generation: int | None
    size_bytes: int | None
    modified_us: int | None
    detector_id: str
    settled: bool


def is_unchanged(ref: ImageRef, seen: Iterable[Seen], detector_id: str) -> bool:
    """Whether the newest earlier row of an image holds for what is listed now, under the same detector.

    The same object generation is the same bytes; a local file is the same by size and time. An image that has
    neither must be read.
    """
    newest = max(seen, key=lambda row: (row.generation or 0, row.scanned_ns), default=None)
    if newest is None or not newest.settled or newest.detector_id != detector_id or ref.error is not None:
        return False
    if ref.generation is not None or newest.generation is not None:
        return ref.generation == newest.generation
    modified_us = None if ref.modified_ns is None else ref.modified_ns // 1000
    return modified_us is not None and (ref.size_bytes, modified_us) == (newest.size_bytes, newest.modified_us)


def committed_files(output: str, but_run: Run) -> Iterator[str]:
    """Data files of every committed run in an output, but for what a run is about to replace.

    Which one that is, its manifest tells and no path: a folder may have two names, by a link or a mount.

    Raises:
        FileNotFoundError: no run was committed there, and it is not the run's own output, where it may be the first:
            a typing error must not look like an empty past.
        ManifestError: a manifest is damaged.
    """
    manifests = read_manifests(output)
    if not manifests and _real(output) != _real(but_run.output):
        raise FileNotFoundError(
            f"--skip_unchanged {output}: no committed run there; the first scan needs no such option"
        )
    replaced = None
    # After the others: what another attempt commits meanwhile is not listed then, rather than listed and not known.
    with suppress(FileNotFoundError, ManifestError):
        replaced = _start(read_manifest(but_run))
    for manifest in manifests:
        if _start(manifest) != replaced:
            yield from (f"{output}/{file['path']}" for file in manifest["files"])


def _real(output: str) -> str:
    return output if is_gcs(output) else os.path.realpath(output)


def _start(manifest: dict[str, Any]) -> tuple[str, str, str | None]:
    return manifest["run_id"], manifest["started_at"], manifest.get("attempt")


def read_seen(path: str) -> Iterator[tuple[str, Seen]]:
    """Every row of a data file, by URI. A column that its schema did not have yet is unknown. Raises OSError, with its
    name."""
    for table in read_tables(path, _SCHEMA):
        for row in table.to_pylist():
            yield row["image_uri"], _seen(row)


def _seen(row: dict[str, Any]) -> Seen:
    modified_at, code = row["image_modified_at"], row["error_code"]
    return Seen(
        scanned_ns=to_ns(row["scanned_at"]),
        generation=row["image_generation"],
        size_bytes=row["image_bytes"],
        modified_us=modified_at and to_ns(modified_at) // 1000,
        detector_id=row["detector_id"],
        settled=code in _BY_SIZE or (row["image_sha256"] is not None and code not in _OF_THE_MOMENT),
    )


class _SkipDoFn(beam.DoFn):
    def __init__(self, assets: str | None, progress: Progress | None):
        self._assets, self._progress = assets, progress
        self._skipped = Metrics.counter(NAMESPACE, "images_skipped")

    def setup(self) -> None:
        self._detector_id = read_id(self._assets)

    def process(self, group: tuple[str, dict[str, Iterable]]) -> Iterator[ImageRef]:
        uri, sides = group
        for ref in sides["refs"]:
            if is_unchanged(ref, sides["seen"], self._detector_id):
                self._skipped.inc()
                if self._progress:
                    self._progress.add("skipped")
                yield TaggedOutput("skipped", uri)
            else:
                yield ref


class SkipUnchanged(beam.PTransform):
    """Splits refs into `changed`, which are to be read, and `skipped`, URIs that an earlier row holds for.

    Args:
        previous: an output of earlier runs; only what its manifests list counts. The run itself does not, by whatever
            name: a rerun replaces its rows, so it skips what it skipped the first time.
        run: the run that is being made.
        assets: folder of the detector, local or gs://; None is the embedded one.
        progress: where to count what is skipped, for a terminal on this machine.
    """

    def __init__(self, previous: str, run: Run, assets: str | None = None, progress: Progress | None = None):
        super().__init__()
        self._previous, self._run, self._assets, self._progress = dataset_root(previous), run, assets, progress

    def display_data(self) -> dict[str, Any]:
        return {"previous": self._previous, "run_id": self._run.run_id, "assets": self._assets or "embedded"}

    def expand(self, refs: beam.PCollection[ImageRef]):
        seen = (
            refs.pipeline
            | "Previous" >> beam.Create([self._previous], reshuffle=False)
            | "CommittedFiles" >> beam.FlatMap(committed_files, self._run)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadSeen" >> beam.FlatMap(read_seen).with_output_types(tuple[str, Seen])
        )
        by_uri = refs | "KeyByUri" >> beam.WithKeys(lambda ref: ref.uri).with_output_types(tuple[str, ImageRef])
        return (
            {"refs": by_uri, "seen": seen}
            | beam.CoGroupByKey()
            | "Skip"
            >> beam.ParDo(_SkipDoFn(self._assets, self._progress))
            .with_output_types(ImageRef, skipped=str)
            .with_outputs("skipped", main="changed")
        )
