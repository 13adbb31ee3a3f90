"""What an earlier row says of an image that is listed again: whether it must be read."""

import datetime
import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from conftest import copy_detector, make_row
from emulators import Bucket, environment, fake_gcs_server

import model_assets
from mdmf_ops.beam import ImageRef, Run, SkipUnchanged
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard
from mdmf_ops.beam.previous import Seen, committed_files, is_unchanged
from mdmf_ops.progress import Progress

DETECTOR = "d-1"
NS = 1_767_225_600_123_456_789


def seen(**changes):
    row = Seen(1, generation=7, size_bytes=100, modified_us=NS // 1000, detector_id=DETECTOR, settled=True)
    return row._replace(**changes)


OBJECT = ImageRef("gs://b/a.jpg", generation=7, size_bytes=100, modified_ns=NS)
FILE = ImageRef("/a.jpg", size_bytes=100, modified_ns=NS)


@pytest.mark.parametrize(
    ("ref", "rows", "unchanged"),
    [
        (OBJECT, [], False),
        (OBJECT, [seen()], True),
        (OBJECT, [seen(size_bytes=None, modified_us=None)], True),
        (OBJECT, [seen(generation=6)], False),
        (OBJECT, [seen(generation=None)], False),
        (OBJECT, [seen(detector_id="d-2")], False),
        (OBJECT, [seen(settled=False)], False),
        (OBJECT._replace(generation=None, modified_ns=None), [seen()], False),
        (FILE, [seen(generation=None)], True),
        (FILE, [seen(generation=None, size_bytes=99)], False),
        (FILE, [seen(generation=None, modified_us=NS // 1000 + 1)], False),
        (FILE._replace(modified_ns=None), [seen(generation=None, modified_us=None)], False),
        # The newest row decides: an older one that fits is no longer what `mdmf latest` shows.
        (FILE, [seen(generation=None), seen(scanned_ns=2, generation=None, size_bytes=99)], False),
        (FILE, [seen(scanned_ns=2, generation=None), seen(generation=None, size_bytes=99)], True),
        (OBJECT, [seen(scanned_ns=2, settled=False), seen()], False),
        # A stream that is told of an overwritten object behind the newer one.
        (OBJECT, [seen(), seen(scanned_ns=2, generation=6, settled=False)], True),
    ],
)
def test_an_image_is_skipped_only_if_its_newest_row_holds(ref, rows, unchanged):
    assert is_unchanged(ref, rows, DETECTOR) is unchanged
    assert is_unchanged(ref, rows[::-1], DETECTOR) is unchanged


@pytest.fixture
def earlier(tmp_path):
    """An output with a committed run, a run of the present id, and a file that no manifest lists."""
    detector_id = model_assets.read_assets(model_assets.embedded()).detector_id
    modified_at = datetime.datetime.fromtimestamp(100, datetime.timezone.utc)

    def rows(*uris, **changes):
        known = {"image_bytes": 5, "image_modified_at": modified_at, "image_sha256": "s", "detector_id": detector_id}
        return [make_row(uri) | known | changes for uri in uris]

    def run(run_id):
        return Run(str(tmp_path), run_id, "2026-01-02", f"2026-01-02T00:00:00+00:00{run_id}")

    def add(run_id, rows):
        commit(run(run_id), len(rows), [write_shard(run(run_id), 0, 1, rows)], CommitOptions())

    add(
        "r1",
        rows("/kept", "/bigger")
        + rows("/lost", image_sha256=None)
        + rows("/empty", image_sha256=None, error_code="empty")
        + rows("/crash", error_code="internal"),
    )
    add("now", rows("/own"))
    write_shard(run("killed"), 0, 1, rows("/uncommitted"))
    return run("now")


@pytest.mark.parametrize("name", ["its own", "a link", "a copy"])
def test_only_rows_of_other_committed_runs_count(earlier, run_pipeline, tmp_path_factory, name):
    previous = Path(earlier.output)
    if name != "its own":
        previous = tmp_path_factory.mktemp("other") / "scores"
        previous.symlink_to(earlier.output) if name == "a link" else shutil.copytree(earlier.output, previous)
    uris = ["/kept", "/empty", "/bigger", "/lost", "/crash", "/own", "/uncommitted", "/new"]
    refs = [ImageRef(uri, size_bytes=6 if uri == "/bigger" else 5, modified_ns=100 * 10**9) for uri in uris]
    with run_pipeline() as p:
        split = p | beam.Create(refs, reshuffle=False) | SkipUnchanged(str(previous), earlier)
        assert_that(split.skipped, equal_to(["/kept", "/empty"]), "skipped")
        changed = split.changed | beam.Map(_uri)
        assert_that(changed, equal_to(uris[2:]), "changed")


def test_another_outputs_run_of_the_same_id_is_an_earlier_one(earlier, tmp_path):
    with_own = list(committed_files(earlier.output, Run(f"{tmp_path}/new", "now", "2026-01-03", "2026-01-03T00:00:00")))
    assert [Path(file).name for file in with_own] == [f"{run}-00000-of-00001.parquet" for run in ("now", "r1")]
    # One whose own manifest was damaged is started anew to mend it.
    damaged = Run(f"{tmp_path}/damaged", "now", "2026-01-03", "2026-01-03T00:00:00")
    Path(damaged.manifest_path).parent.mkdir(parents=True)
    Path(damaged.manifest_path).write_text("{")
    assert list(committed_files(earlier.output, damaged)) == with_own


def test_a_previous_output_without_a_run_is_refused_unless_it_is_the_runs_own(tmp_path):
    run = Run.start(str(tmp_path / "scores"))
    (tmp_path / "link").symlink_to("scores")
    for name in ("scores", "link"):
        assert list(committed_files(f"{tmp_path}/{name}", run)) == []
    for name in (f"{tmp_path}/scroes", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"--skip_unchanged {name}: no committed run there"):
            list(committed_files(name, run))


def test_a_misspelt_bucket_is_refused_too():
    with fake_gcs_server() as url, environment(url):
        bucket = Bucket("night")
        run = Run.start(bucket.uri("scores"))
        assert list(committed_files(bucket.uri("scores"), run)) == []
        with pytest.raises(FileNotFoundError, match="gs://night/scroes: no committed run there"):
            list(committed_files(bucket.uri("scroes"), run))


def test_what_is_skipped_is_counted_for_the_terminal_and_a_detectors_id_needs_none_of_its_weights(
    earlier, run_pipeline, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("more")
    copy_detector(folder / "micro", model_assets.read_assets(model_assets.embedded()).manifest["name"])
    for path in (folder / "micro").glob("*.safetensors"):
        path.unlink()
    (folder / "progress").mkdir()
    progress = Progress(str(folder / "progress"))
    uris = ["/kept", "/empty", "/lost", "/new"]
    refs = [ImageRef(uri, size_bytes=5, modified_ns=100 * 10**9) for uri in uris]
    with run_pipeline() as p:
        skip = SkipUnchanged(earlier.output, earlier, str(folder / "micro"), progress)
        split = p | beam.Create(refs, reshuffle=False) | skip
        assert_that(split.skipped, equal_to(uris[:2]))
    assert progress.total("skipped") == 2


def _uri(ref):
    return ref.uri
