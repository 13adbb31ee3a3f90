"""`WriteScores`: rows to a committed Parquet run, by the rules of `mdmf_ops.beam.commit`."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsList, AsSingleton
from apache_beam.transforms.stats import ApproximateQuantiles
from apache_beam.transforms.window import GlobalWindows, WindowedValue

from mdmf_ops.beam.commit import CommitError, CommitOptions, commit, retract, write_table
from mdmf_ops.beam.image import ImageRef
from mdmf_ops.beam.packed import pack, unpack
from mdmf_ops.beam.run import Run
from mdmf_ops.heap import keep_no_free_memory
from mdmf_ops.text import told

ROWS_PER_FILE = 100_000
"""Rows of 512 px images come to about 130 MB in this many; rows of a shard are sorted in memory."""

QUANTILES = 1000
"""Cut of the URIs, and so the most files, of a run whose number is not given: 100 million rows in the usual size, and
larger files beyond."""

_MOST_WAITING = 250
"""Rows that a worker holds until they are packed: 2.5 MB."""


class WriteScores(beam.PTransform):
    """Writes rows as Parquet, checks them against the inputs and commits the run.

    The URIs are cut into as many stretches as there are files, of about as many rows each: a shard is one stretch,
    sorted, in one file whose name follows from the run and the shard. So a retried bundle replaces its own file, and
    a reader who looks for some URIs opens the files that hold them alone. The output is the run's manifest, one
    element.

    Args:
        run: names the files.
        refs: PCollection of ImageRef: what went in to be scored. The run is complete only if as many rows come out.
        skipped: PCollection of the inputs beside them that need no row; None is none.
        num_shards: number of files, at most; None takes one for each 100,000 rows.
        options: what the commit asks and records.

    Raises:
        ValueError: there is to be no file, or, where it is applied, its rows or inputs come in windows.
        CommitError: as it runs, and nothing is committed: see `commit`; and where rows are of another run.
    """

    def __init__(
        self,
        run: Run,
        refs: beam.PCollection[ImageRef],
        *,
        skipped: beam.PCollection | None = None,
        num_shards: int | None = None,
        options: CommitOptions | None = None,
    ):
        super().__init__()
        if num_shards is not None and num_shards < 1:
            raise ValueError(f"num_shards={num_shards}: at least one file is needed")
        self._run = run
        self._refs = refs
        self._skipped = skipped
        self._num_shards = num_shards
        self._options = options or CommitOptions()

    def display_data(self) -> dict[str, Any]:
        return {"run_id": self._run.run_id, "output": self._run.output, "num_shards": self._num_shards or "by rows"}

    def expand(self, rows: beam.PCollection[dict[str, Any]]) -> beam.PCollection[dict[str, Any]]:
        # Elsewhere Beam would say so of its own steps, and only as it runs.
        for of, collection in (("rows", rows), ("refs", self._refs), ("skipped", self._skipped)):
            if collection is not None and not isinstance(collection.windowing.windowfn, GlobalWindows):
                raise ValueError(f"{of} in windows: a run is one whole: beam.WindowInto(GlobalWindows()) before")
        expected = self._refs | "CountExpected" >> beam.combiners.Count.Globally()
        quantiles = (
            self._refs
            | "Uris" >> beam.Map(lambda ref: ref.uri)
            | "Quantiles" >> ApproximateQuantiles.Globally(max(QUANTILES, self._num_shards or 0) + 1)
        )
        bounds = expected | "Bounds" >> beam.Map(cut_uris, AsSingleton(quantiles), self._num_shards)
        # Nothing is replaced before the manifest that names it is gone: a side input is waited for.
        retracted = expected | "Retract" >> beam.Map(lambda _expected, run: retract(run), self._run)
        files = (
            rows
            | "KeyByShard" >> beam.ParDo(_PackDoFn(), AsSingleton(bounds)).with_output_types(tuple[int, bytes])
            | "Group" >> beam.GroupByKey()
            | "WriteShard" >> beam.Map(_write, self._run, AsSingleton(bounds), AsSingleton(retracted))
        )
        skipped = [] if self._skipped is None else [self._skipped | "CountSkipped" >> beam.combiners.Count.Globally()]
        return expected | "Commit" >> beam.Map(
            _commit, self._run, AsList(files), self._options, *(AsSingleton(count) for count in skipped)
        )


def cut_uris(expected: int, quantiles: list[str], num_shards: int | None) -> list[str]:
    """First URI of every shard but the first: one bound less than there are shards."""
    num_shards = num_shards or max(1, min(QUANTILES, -(-expected // ROWS_PER_FILE)))
    last = len(quantiles) - 1
    return [quantiles[last * shard // num_shards] if quantiles else "" for shard in range(1, num_shards)]


class _PackDoFn(beam.DoFn):
    """Rows to packed ones by shard. A runner on one machine keeps them all in memory until the last is scored."""

    def start_bundle(self) -> None:
        self._waiting: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._left = _MOST_WAITING

    def process(self, row: dict[str, Any], bounds: list[str]) -> Iterator[tuple[int, bytes]]:
        self._waiting[bisect_right(bounds, row["image_uri"])].append(row)
        self._left -= 1
        if not self._left:
            yield from self._pack()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(GlobalWindows.windowed_value, self._pack())
        # The scorer in this process keeps free memory for its next image, and has none for now.
        keep_no_free_memory()

    def _pack(self) -> Iterator[tuple[int, bytes]]:
        for shard, rows in self._waiting.items():
            yield shard, pack(rows)
        self.start_bundle()


def _write(shard_rows: tuple[int, Iterable[bytes]], run: Run, bounds: list[str], _retracted: None) -> dict[str, Any]:
    shard, packed = shard_rows
    # By default Arrow keeps what it frees, apart from what the C library does.
    pa.set_memory_pool(pa.system_memory_pool())
    table = unpack(packed)
    if others := set(pc.unique(table["run_id"]).to_pylist()) - {run.run_id}:
        raise CommitError(f"run {run.run_id}: rows of run {told(min(others))}: score and write with the same Run")
    return write_table(run, shard, len(bounds) + 1, table)


def _commit(
    expected: int, run: Run, files: list[dict[str, Any]], options: CommitOptions, skipped: int = 0
) -> dict[str, Any]:
    return commit(run, expected + skipped, files, options, skipped)
