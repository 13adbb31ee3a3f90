"""`WriteWindows`: a stream's rows to committed Parquet, one file for each window, pane and shard.

A window is a stretch of publication time. Its rows are written when it closes; what is published in it and comes later
makes later panes of its own. Each (window, shard, pane) is a run of the dataset as a scan's is, with one file and a
manifest written last, so every reader of the dataset sees it, and a retried bundle replaces its own file. Names:

    scan_date=2026-01-31/STREAM-20260131T221500Z-s00-ontime0-00000-of-00001.parquet
    _runs/STREAM-20260131T221500Z-s00-ontime0.json
    _windows/STREAM-20260131T221500Z.json       the window is complete but for what comes late
    _drift/scan_date=2026-01-31/STREAM-20260131T221500Z-ontime0.parquet

Windows close in order: one with no images has no file, and is complete once a later one is.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterProcessingTime, AfterWatermark
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from mdmf_ops.beam.commit import read_manifest, retract, temporary_file, write_manifest, write_shard
from mdmf_ops.beam.image import NAMESPACE
from mdmf_ops.beam.run import DRIFT_FOLDER, WINDOW_FOLDER, Run
from mdmf_ops.beam.storage import publish
from mdmf_ops.beam.stream.drift import Sample, sample, summarise
from mdmf_ops.beam.stream.live import Scored, age_ms
from mdmf_ops.beam.write import ROWS_PER_FILE
from mdmf_ops.defaults import WINDOW_S
from mdmf_ops.schema import PARTITION

LATENESS_S = 31 * 24 * 3600
"""As long as a topic can keep a message: nothing is too late for a row."""

LATE_WAIT_S = 60
"""Late images of a window wait so long for each other, to share a file."""

WRITTEN = "written"


@dataclass(frozen=True)
class Windows:
    """How a stream is cut into files.

    Attributes:
        size_s: of a window, in seconds.
        num_shards: files of a pane; a shard's rows are sorted in memory by one worker.
    """

    size_s: int = WINDOW_S
    num_shards: int = 1

    def __post_init__(self):
        if self.size_s < 1 or not 1 <= self.num_shards <= 100:
            raise ValueError(
                f"window_s={self.size_s}, num_shards={self.num_shards}: at least 1, and at most 100 shards"
            )

    def into(self) -> beam.WindowInto:
        """Windows that close by the watermark. A pane of 100,000 rows does not wait for it; late rows wait for each
        other, so that a trickle of them does not make a file each."""
        late = AfterProcessingTime(min(self.size_s, LATE_WAIT_S))
        return self._into(AfterWatermark(early=AfterCount(ROWS_PER_FILE), late=late))

    def into_closed(self) -> beam.WindowInto:
        """The same windows for what is known of a window when it has closed."""
        return self._into(AfterWatermark(late=AfterCount(1)))

    def _into(self, trigger: AfterWatermark) -> beam.WindowInto:
        return beam.WindowInto(
            FixedWindows(self.size_s),
            trigger=trigger,
            accumulation_mode=AccumulationMode.DISCARDING,
            allowed_lateness=LATENESS_S,
        )

    def shard_of(self, row_id: str) -> int:
        """The shard of a row."""
        return int(hashlib.blake2b(row_id.encode(), digest_size=4).hexdigest(), 16) % self.num_shards

    def rows_of(self, stream: Run, published_us: int, row_id: str) -> str:
        """What the path of the file with a row begins with, relative to the output; the pane alone is not yet known."""
        start = _moment(published_us // 1_000_000 // self.size_s * self.size_s)
        return f"{PARTITION}={start:%Y-%m-%d}/{_window_name(stream, start)}-s{self.shard_of(row_id):02d}-"


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def _window_name(stream: Run, start: datetime.datetime) -> str:
    return f"{stream.run_id}-{start:%Y%m%dT%H%M%SZ}"


def _pane_name(pane: PaneInfo) -> str:
    """`early0`, `ontime0`, `late1`: unique within the window, and the same when the bundle is tried again."""
    return f"{PaneInfoTiming.to_string(pane.timing).lower().replace('_', '')}{pane.index}"


class _Written(NamedTuple):
    """One file of a window: its run, and what the window's own files say of its rows."""

    run_id: str
    rows: int
    sample: Sample


class WriteWindows(beam.PTransform):
    """Writes and commits `Scored` elements that are windowed by `windows.into()`.

    Args:
        stream: names the files; a restarted stream must have another name, since it counts its panes anew.
        windows: sizes.

    The output is the ids of the messages whose rows are durable now.
    """

    def __init__(self, stream: Run, windows: Windows):
        super().__init__()
        self._stream, self._windows = stream, windows

    def display_data(self) -> dict[str, Any]:
        stream, windows = self._stream, self._windows
        size = {"window_s": windows.size_s, "num_shards": windows.num_shards}
        return {"stream_id": stream.run_id, "output": stream.output, **size}

    def expand(self, scored: beam.PCollection[Scored]) -> beam.PCollection[str]:
        written = (
            scored
            | "KeyByShard" >> beam.Map(_with_shard, self._windows).with_output_types(tuple[int, tuple])
            | "GroupShard" >> beam.GroupByKey()
            | "WritePane"
            >> beam.ParDo(_WritePaneDoFn(self._stream))
            .with_output_types(str, **{WRITTEN: _Written})
            .with_outputs(WRITTEN, main="message_ids")
        )
        _ = (
            written[WRITTEN]
            | "Closed" >> self._windows.into_closed()
            | "KeyByWindow" >> beam.WithKeys(0)
            # Fires behind the shards' on-time panes, since those hold the watermark until they are written.
            | "GroupWindow" >> beam.GroupByKey()
            | "CloseWindow" >> beam.ParDo(_CloseWindowDoFn(self._stream))
        )
        return written.message_ids


def _with_shard(scored: Scored, windows: Windows) -> tuple[int, tuple]:
    # The message's data stay behind: a window would keep them all in memory.
    return windows.shard_of(scored.row["row_id"]), (scored.row, scored.ref.message._replace(data=b"", attributes={}))


class _WritePaneDoFn(beam.DoFn):
    def __init__(self, stream: Run):
        self._stream = stream
        self._rows = Metrics.counter(NAMESPACE, "rows_written")
        self._late = Metrics.counter(NAMESPACE, "rows_late")
        self._age_ms = Metrics.distribution(NAMESPACE, "publish_to_file_ms")

    def process(
        self, shard_rows: tuple[int, Iterable[tuple]], window=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam
    ) -> Iterator[str]:
        shard, found = shard_rows[0], list(shard_rows[1])
        if not found:  # an early pane took all there was
            return
        start = _moment(float(window.start))
        run = Run(
            self._stream.output,
            f"{_window_name(self._stream, start)}-s{shard:02d}-{_pane_name(pane)}",
            f"{start:%Y-%m-%d}",
            start.isoformat(timespec="seconds"),
        )
        rows = [row | {"run_id": run.run_id} for row, _message in found]
        if not _is_written(run, len(rows)):
            retract(run)
            file = write_shard(run, 0, 1, rows)
            recorded = {"stream_id": self._stream.run_id, **_span(window), "shard": shard, "pane": _pane_name(pane)}
            write_manifest(run, len(rows), [file], recorded)
        self._rows.inc(len(rows))
        if pane.timing == PaneInfoTiming.LATE:
            self._late.inc(len(rows))
        for _row, message in found:
            self._age_ms.update(age_ms(message))
            yield message.message_id
        yield beam.pvalue.TaggedOutput(WRITTEN, _Written(run.run_id, len(rows), sample(rows)))


def _is_written(run: Run, rows: int) -> bool:
    """Whether a pane is committed with so many rows or more. A service has panes tried again: by then more rows may
    have come to it, and whoever it gave up, and goes on, has fewer. It keeps the try that saw most."""
    try:
        return read_manifest(run)["inputs"] >= rows
    except FileNotFoundError:
        return False


def _span(window) -> dict[str, str]:
    return {
        "window_start": _moment(float(window.start)).isoformat(timespec="seconds"),
        "window_end": _moment(float(window.end)).isoformat(timespec="seconds"),
    }


class _CloseWindowDoFn(beam.DoFn):
    """Writes the drift of a window's files, and says once that the window is complete."""

    def __init__(self, stream: Run):
        self._stream = stream

    def process(
        self, keyed: tuple[int, Iterable[_Written]], window=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam
    ) -> None:
        files = sorted(keyed[1], key=lambda file: file.run_id)
        start = _moment(float(window.start))
        name = _window_name(self._stream, start)
        if files:
            of = {
                "stream_id": self._stream.run_id,
                "window_start": start,
                "window_end": _moment(float(window.end)),
                "pane": _pane_name(pane),
            }
            table = summarise((file.sample for file in files), of)
            path = f"{DRIFT_FOLDER}/{PARTITION}={start:%Y-%m-%d}/{name}-{_pane_name(pane)}.parquet"
            self._publish(path, lambda file: pq.write_table(table, file, compression="zstd"))
        if pane.nonspeculative_index == 0:
            content: dict[str, Any] = {
                "format": 1,
                "stream_id": self._stream.run_id,
                **_span(window),
                "rows": sum(file.rows for file in files),
                "runs": [file.run_id for file in files],
            }
            text = json.dumps(content, indent=2) + "\n"
            self._publish(f"{WINDOW_FOLDER}/{name}.json", lambda file: file.write_text(text))

    def _publish(self, path: str, write) -> None:
        run = replace(self._stream, run_id=Path(path).stem)  # a temporary folder that no other file is made in
        with temporary_file(run) as file:
            write(file)
            publish(file, f"{run.output}/{path}")
        with suppress(OSError):  # there is none for a bucket; another run may be in that of all
            Path(run.temporary_folder).rmdir()
            Path(run.temporary_folder).parent.rmdir()
