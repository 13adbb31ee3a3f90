"""Windows to files: which rows lie where, under which name, when they come late, twice or in pieces."""

import json
import time
from pathlib import Path

import apache_beam as beam
import duckdb
import pyarrow.parquet as pq
import pytest
from apache_beam.coders import PickleCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.direct.transform_evaluator import TransformEvaluatorRegistry
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue, WindowFn
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming
from hypothesis import given
from hypothesis import strategies as st

import mdmf_ops.beam.stream.windows
from mdmf_ops.beam import Image, ImageRef, Run
from mdmf_ops.beam.commit import read_manifests
from mdmf_ops.beam.image import Message
from mdmf_ops.beam.runs import latest_rows, strays, verify_run
from mdmf_ops.beam.score import make_row
from mdmf_ops.beam.stream.group import GroupEvaluator
from mdmf_ops.beam.stream.live import Scored
from mdmf_ops.beam.stream.windows import Windows, WriteWindows, _WritePaneDoFn
from mdmf_ops.detector import Detector, ErrorCode, ImageError

DAY_S = 1767312000  # 2026-01-02
MINUTE = Windows(60)


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


@pytest.fixture
def stream(tmp_path):
    return Run(str(tmp_path / "out"), "stream-x", "2026-01-02", "2026-01-02T00:00:00+00:00")


@pytest.fixture
def scored(detector, stream):
    def make(name: str, second: float) -> TimestampedValue:
        message = Message(b"data", {}, f"id-{name}", int((DAY_S + second) * 1e6))
        ref = ImageRef(f"gs://bucket/{name}", message=message)
        image = Image(ref, None, ImageError(ErrorCode.NOT_FOUND, "gone"))
        return TimestampedValue(Scored(ref, make_row(image, image.error, detector, stream)), DAY_S + second)

    return make


@pytest.fixture(autouse=True, params=["beam", "ours"])
def grouping(request, monkeypatch):
    """Beam's own, as other runners have it, and the local stream's."""
    if request.param == "ours":
        overrides = TransformEvaluatorRegistry._test_evaluators_overrides
        monkeypatch.setitem(overrides, direct_runner._StreamingGroupAlsoByWindow, GroupEvaluator)


def run(events: test_stream.TestStream, stream: Run, windows: Windows, message_ids: list[str]) -> None:
    options = PipelineOptions([], streaming=True, runner="BundleBasedDirectRunner")
    with beam.Pipeline(options=options) as p:
        done = p | events | "In" >> windows.into() | WriteWindows(stream, windows)
        assert_that(done | "All" >> beam.WindowInto(beam.window.GlobalWindows()), equal_to(message_ids))


def events() -> test_stream.TestStream:
    return test_stream.TestStream(coder=PickleCoder())


def names_by_run(stream: Run) -> dict[str, list[str]]:
    """Names of the images in each data file, by the run id in its rows."""
    found = {}
    for path in Path(stream.output).glob("scan_date=*/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        [run_id] = set(table["run_id"].to_pylist())
        assert path.name == f"{run_id}-00000-of-00001.parquet"
        found[run_id] = [uri.removeprefix("gs://bucket/") for uri in table["image_uri"].to_pylist()]
    return found


def windows_closed(stream: Run) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in Path(stream.output, "_windows").glob("*")}


def test_a_late_row_lands_in_a_pane_of_its_own_and_the_first_files_stay_as_they_are(stream, scored):
    story = (
        events()
        .advance_processing_time(
            DAY_S + 60
        )  # the local runner takes a pane for early if its clock is before the window
        .advance_watermark_to(DAY_S)
        .add_elements([scored("a", 1), scored("b", 59), scored("c", 60)])
        .advance_watermark_to(DAY_S + 60)
        .add_elements([scored("late1", 2)])
        .advance_processing_time(30)
        .add_elements([scored("late2", 3)])
        .advance_processing_time(31)
        .advance_watermark_to(DAY_S + 200)
        .add_elements([scored("later", 4)])
        .advance_processing_time(61)
        .advance_watermark_to_infinity()
    )
    run(story, stream, MINUTE, [f"id-{name}" for name in ("a", "b", "c", "late1", "late2", "later")])
    first, second = "stream-x-20260102T000000Z", "stream-x-20260102T000100Z"
    assert names_by_run(stream) == {
        f"{first}-s00-ontime0": ["a", "b"],
        f"{first}-s00-late1": ["late1", "late2"],
        f"{first}-s00-late2": ["later"],
        f"{second}-s00-ontime0": ["c"],
    }
    closed = windows_closed(stream)
    assert closed.keys() == {first, second}
    assert (closed[first]["rows"], closed[first]["runs"]) == (2, [f"{first}-s00-ontime0"])
    assert closed[first]["window_start"] == "2026-01-02T00:00:00+00:00"
    assert closed[first]["window_end"] == "2026-01-02T00:01:00+00:00"
    assert sorted(path.stem for path in Path(stream.output, "_drift").rglob("*.parquet")) == [
        f"{first}-late1",
        f"{first}-late2",
        f"{first}-ontime0",
        f"{second}-ontime0",
    ]


def test_every_pane_is_a_whole_run_that_readers_of_the_dataset_see(stream, scored, detector):
    story = events().add_elements([scored(f"{i:02d}", i) for i in range(20)]).advance_watermark_to_infinity()
    run(story, stream, MINUTE, [f"id-{i:02d}" for i in range(20)])
    [manifest] = read_manifests(stream.output)
    assert verify_run(stream.output, manifest) == []
    assert (manifest["inputs"], manifest["counts"]["error_code"]) == (20, {"not_found": 20})
    assert manifest["counts"]["detector_id"] == {detector.assets.detector_id: 20}
    assert manifest["options"]["stream_id"] == "stream-x"
    assert strays(stream.output) == []
    assert not Path(stream.output, "_tmp").exists()
    assert len(list(latest_rows(stream.output))) == 20
    relation = duckdb.sql(f"select image_uri from read_parquet('{stream.output}/scan_date=*/*.parquet')")
    assert len(relation.fetchall()) == 20


def test_a_window_has_at_most_one_file_a_shard_and_closes_when_all_are_written(stream, scored):
    windows = Windows(60, num_shards=3)
    elements = [scored(f"{i:02d}", i) for i in range(40)]
    story = events()
    for element in elements:  # forty bundles
        story.add_elements([element])
    run(story.advance_watermark_to_infinity(), stream, windows, [f"id-{i:02d}" for i in range(40)])
    found = names_by_run(stream)
    assert len(found) == 3
    assert sorted(name for names in found.values() for name in names) == [f"{i:02d}" for i in range(40)]
    [closed] = windows_closed(stream).values()
    assert closed["rows"] == 40 and closed["runs"] == sorted(found)
    for element in elements:
        at = windows.rows_of(stream, element.value.ref.message.published_us, element.value.row["row_id"])
        [path] = Path(stream.output).glob(f"{at}*")
        assert element.value.ref.uri in pq.read_table(path, partitioning=None)["image_uri"].to_pylist()


def test_a_pane_that_is_large_does_not_wait_for_its_window(stream, scored, monkeypatch):
    monkeypatch.setattr(mdmf_ops.beam.stream.windows, "ROWS_PER_FILE", 3)
    story = (
        events()
        .add_elements([scored("a", 1), scored("b", 2), scored("c", 3)])
        .add_elements([scored("d", 4)])
        .advance_watermark_to_infinity()
    )
    run(story, stream, MINUTE, ["id-a", "id-b", "id-c", "id-d"])
    name = "stream-x-20260102T000000Z"
    assert names_by_run(stream) == {f"{name}-s00-early0": ["a", "b", "c"], f"{name}-s00-ontime1": ["d"]}
    assert windows_closed(stream)[name]["runs"] == [f"{name}-s00-early0", f"{name}-s00-ontime1"]


def test_a_retried_bundle_replaces_its_own_file(stream, scored):
    rows = [(scored(name, 1).value.row, scored(name, 1).value.ref.message) for name in "abc"]
    window = IntervalWindow(DAY_S, DAY_S + 60)
    pane = PaneInfo(True, False, PaneInfoTiming.ON_TIME, 0, 0)
    dofn = _WritePaneDoFn(stream)
    tries = [list(dofn.process((0, rows), window, pane)) for _ in range(2)]
    assert tries[0][:3] == tries[1][:3] == ["id-a", "id-b", "id-c"]
    assert names_by_run(stream) == {"stream-x-20260102T000000Z-s00-ontime0": ["a", "b", "c"]}
    assert len(read_manifests(stream.output)) == 1


def test_of_all_tries_of_a_pane_that_with_the_most_rows_stays(stream, scored, monkeypatch):
    rows = [(scored(name, 1).value.row, scored(name, 1).value.ref.message) for name in "abc"]
    window = IntervalWindow(DAY_S, DAY_S + 60)
    pane = PaneInfo(True, False, PaneInfoTiming.ON_TIME, 0, 0)
    dofn = _WritePaneDoFn(stream)
    list(dofn.process((0, rows[:2]), window, pane))  # its worker is given up
    list(dofn.process((0, rows), window, pane))  # another one, for which a row has come meanwhile
    [manifest] = read_manifests(stream.output)
    monkeypatch.setattr(
        mdmf_ops.beam.stream.windows, "retract", lambda _run: pytest.fail("what is committed is taken back")
    )
    for late in (rows[:2], rows):  # which go on all the same
        list(dofn.process((0, late), window, pane))
        assert names_by_run(stream) == {"stream-x-20260102T000000Z-s00-ontime0": ["a", "b", "c"]}
        assert read_manifests(stream.output) == [manifest]
        assert verify_run(stream.output, manifest) == []


def test_windows_that_no_file_can_have_are_refused():
    with pytest.raises(ValueError, match="window_s=0"):
        Windows(0)
    with pytest.raises(ValueError, match="num_shards=101"):
        Windows(60, 101)


@given(st.integers(0, 2**32 * 10**6), st.integers(1, 86_400), st.integers(1, 100), st.text())
def test_the_file_of_a_row_is_named_by_the_window_that_beam_puts_it_in(published_us, size_s, num_shards, row_id):
    windows = Windows(size_s, num_shards)
    stream = Run("/out", "stream-x", "2026-01-02", "2026-01-02T00:00:00+00:00")
    [window] = FixedWindows(size_s).assign(WindowFn.AssignContext(Timestamp(micros=published_us)))
    shard = windows.shard_of(row_id)
    assert 0 <= shard < num_shards
    start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(int(window.start)))
    day = time.strftime("%Y-%m-%d", time.gmtime(int(window.start)))
    assert windows.rows_of(stream, published_us, row_id) == f"scan_date={day}/stream-x-{start}-s{shard:02d}-"
