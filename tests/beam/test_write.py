"""Rows by way of the shards' packed ones: each is written once, whatever fills up when."""

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.window import FixedWindows
from conftest import files_in, make_row

import mdmf_ops.beam.write
from mdmf_ops.beam import Run, WriteScores
from mdmf_ops.beam.image import ImageRef


@pytest.mark.parametrize(
    ("images", "most_waiting", "num_shards", "quantiles"),
    # The last asks for more files than there are when nobody asks.
    [(100, 7, 3, 1000), (100, 100, 1, 1000), (3, 7, 1, 1000), (0, 7, 1, 1000), (100, 7, 10, 5)],
)
def test_every_row_is_written_once_in_the_file_of_its_stretch(
    tmp_path, monkeypatch, images, most_waiting, num_shards, quantiles
):
    monkeypatch.setattr(mdmf_ops.beam.write, "_MOST_WAITING", most_waiting)
    monkeypatch.setattr(mdmf_ops.beam.write, "QUANTILES", quantiles)
    uris = [f"/{number * 61 % 101:03}" for number in range(images)]
    with beam.Pipeline("DirectRunner") as pipeline:
        refs = pipeline | beam.Create([ImageRef(uri) for uri in uris])
        rows = refs | beam.Reshuffle() | beam.Map(lambda ref: make_row(ref.uri)).with_output_types(dict)
        _ = rows | WriteScores(Run.start(str(tmp_path), "r1"), refs, num_shards=num_shards)
    files = [name for name in files_in(tmp_path) if name.endswith(".parquet")]
    assert len(files) == min(num_shards, images)
    assert [uri for name in files for uri in pq.read_table(tmp_path / name)["image_uri"].to_pylist()] == sorted(uris)


def test_rows_of_another_run_are_not_committed(tmp_path):
    run = Run.start(str(tmp_path), "r2")
    with pytest.raises(Exception, match="run r2: rows of run r1: score and write with the same Run"):  # noqa: SIM117
        with beam.Pipeline("FnApiRunner") as pipeline:
            refs = pipeline | beam.Create([ImageRef("/a")])
            _ = refs | beam.Map(lambda ref: make_row(ref.uri)).with_output_types(dict) | WriteScores(run, refs)
    assert not [name for name in files_in(tmp_path) if name.endswith((".parquet", ".json"))]


@pytest.mark.parametrize("windowed", ["rows", "refs"])
def test_windows_are_refused_before_anything_runs(tmp_path, windowed):
    pipeline = beam.Pipeline("FnApiRunner")
    refs = pipeline | beam.Create([ImageRef("/a")])
    rows = refs | beam.Map(lambda ref: make_row(ref.uri)).with_output_types(dict)
    window = beam.WindowInto(FixedWindows(60))
    rows, refs = (rows | window, refs) if windowed == "rows" else (rows, refs | window)
    with pytest.raises(ValueError, match=f"{windowed} in windows: a run is one whole"):
        _ = rows | WriteScores(Run.start(str(tmp_path), "r1"), refs)
