"""`WriteScores`: rows to a committed Parquet run, by the rules of `mdmf_ops.beam.commit`."""

import zlib
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from mdmf_ops.beam.commit import CommitOptions, commit, retract, write_shard
from mdmf_ops.beam.run import Run

ROWS_PER_FILE = 100_000
"""Rows of 512 px images come to about 130 MB in this many; rows of a shard are sorted in memory."""


class WriteScores(beam.PTransform):
    """Writes rows as Parquet, checks them against the inputs and commits the run.

    Rows are grouped by a hash of their URI into shards; each shard is one file whose name follows from the run
    and the shard, so that a retried bundle replaces its own file. The output is the run's manifest, one element.

    Args:
        run: names the files.
        inputs: PCollection of one int, how many images went in. The run is complete only if as many rows come out.
        num_shards: number of files; None takes one for each 100,000 inputs.
        options: what the commit asks and records.
    """

    def __init__(
        self,
        run: Run,
        inputs: beam.PCollection[int],
        *,
        num_shards: int | None = None,
        options: CommitOptions | None = None,
    ):
        super().__init__()
        if num_shards is not None and num_shards < 1:
            raise ValueError(f"num_shards={num_shards}: at least one file is needed")
        self._run = run
        self._inputs = inputs
        self._num_shards = num_shards
        self._options = options or CommitOptions()

    def expand(self, rows):
        shards = self._inputs | "CountShards" >> beam.Map(_count_shards, self._num_shards)
        # Nothing is replaced before the manifest that names it is gone: a side input is waited for.
        retracted = self._inputs | "Retract" >> beam.Map(lambda _inputs, run: retract(run), self._run)
        files = (
            rows
            | "KeyByShard" >> beam.Map(_with_shard, AsSingleton(shards))
            | "Group" >> beam.GroupByKey()
            | "WriteShard" >> beam.Map(_write, self._run, AsSingleton(shards), AsSingleton(retracted))
        )
        return self._inputs | "Commit" >> beam.Map(
            lambda inputs, run, files, options: commit(run, inputs, files, options),
            self._run,
            AsList(files),
            self._options,
        )


def _count_shards(inputs: int, num_shards: int | None) -> int:
    return num_shards or max(1, -(-inputs // ROWS_PER_FILE))


def _with_shard(row: dict[str, Any], num_shards: int) -> tuple[int, dict[str, Any]]:
    return zlib.crc32(row["image_uri"].encode()) % num_shards, row


def _write(
    shard_rows: tuple[int, Iterable[dict[str, Any]]], run: Run, num_shards: int, _retracted: None
) -> dict[str, Any]:
    shard, rows = shard_rows
    return write_shard(run, shard, num_shards, rows)
