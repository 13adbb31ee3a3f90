"""The dataset after good runs, broken runs, retries and reruns, read back from the disk."""

import contextlib
import json
import threading
from pathlib import Path

import emulators
import pyarrow.parquet as pq
import pytest
from conftest import files_in, make_row
from emulators import Bucket

import mdmf_ops
from mdmf_ops.beam import commit as commit_module
from mdmf_ops.beam.commit import (
    CommitError,
    CommitOptions,
    ManifestError,
    commit,
    read_manifest,
    read_manifests,
    retract,
    write_manifest,
    write_shard,
)
from mdmf_ops.beam.run import Run
from mdmf_ops.schema import SCHEMA, SchemaError

ROWS = [make_row("/c"), make_row("/a"), make_row("/b", "failed")]


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path / "out"), "r1", "2026-01-02", "2026-01-02T00:00:00+00:00")


def test_a_shard_is_sorted_compressed_and_has_its_fixed_name(run):
    file = write_shard(run, 2, 5, ROWS)
    assert files_in(run.output) == [file["path"]] == ["scan_date=2026-01-02/r1-00002-of-00005.parquet"]
    path = Path(run.output, file["path"])
    parquet = pq.ParquetFile(path)
    assert parquet.read().column("image_uri").to_pylist() == ["/a", "/b", "/c"]
    column = parquet.metadata.row_group(0).column(SCHEMA.get_field_index("image_uri"))
    assert (column.compression, column.statistics.min, column.statistics.max) == ("ZSTD", "/a", "/c")
    assert (file["rows"], file["bytes"]) == (3, path.stat().st_size)
    assert file["counts"]["status"] == {"scored": 2, "failed": 1}


def test_a_retried_shard_replaces_itself(run):
    write_shard(run, 0, 1, ROWS[:2])
    file = write_shard(run, 0, 1, ROWS)
    manifest = commit(run, 3, [file], CommitOptions())
    assert files_in(run.output) == ["_runs/r1.json", file["path"]]
    assert manifest["counts"]["verdict"] == {"likely_real": 2}
    assert read_manifest(run) == manifest


def test_a_bad_row_leaves_nothing_behind(run):
    with pytest.raises(SchemaError):
        write_shard(run, 0, 1, [*ROWS, make_row("/d") | {"run_id": None}])
    assert files_in(run.output) == []


def test_a_failed_write_leaves_the_old_file_whole(run, monkeypatch):
    write_shard(run, 0, 1, ROWS)
    before = Path(run.output, run.data_file(0, 1)).read_bytes()

    def disk_full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit_module.pq, "write_table", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_shard(run, 0, 1, ROWS[:1])
    assert files_in(run.output) == [run.data_file(0, 1)]
    assert Path(run.output, run.data_file(0, 1)).read_bytes() == before


def test_what_does_not_read_back_is_refused(run, monkeypatch):
    publish = commit_module.publish

    def lossy(source, destination):
        source.write_bytes(source.read_bytes()[:-1])
        publish(source, destination)

    monkeypatch.setattr(commit_module, "publish", lossy)
    with pytest.raises(CommitError, match="expected SHA-256"):
        write_shard(run, 0, 1, ROWS)


@pytest.mark.parametrize("inputs", [2, 4])
def test_a_row_missing_or_too_many_is_no_commit(run, inputs):
    file = write_shard(run, 0, 1, ROWS)
    with pytest.raises(CommitError, match=f"{inputs} images went in, 3 rows came out"):
        commit(run, inputs, [file], CommitOptions())
    assert not Path(run.manifest_path).exists()


def test_a_file_that_went_missing_is_no_commit(run):
    file = write_shard(run, 0, 1, ROWS)
    Path(run.output, file["path"]).unlink()
    with pytest.raises(CommitError, match="not there any more"):
        commit(run, 3, [file], CommitOptions())
    assert not Path(run.manifest_path).exists()


@pytest.mark.parametrize(("limit", "fatal"), [(None, False), (0.34, False), (0.33, True), (0.0, True)])
def test_too_many_failures_are_fatal_only_over_the_limit(run, limit, fatal):
    file = write_shard(run, 0, 1, ROWS)
    options = CommitOptions(max_failed_fraction=limit)
    if fatal:
        with pytest.raises(CommitError, match="1 of 3 images failed"):
            commit(run, 3, [file], options)
    else:
        commit(run, 3, [file], options)
    assert Path(run.manifest_path).exists() is not fatal


@pytest.mark.parametrize(("limit", "fatal"), [(0.01, False), (0.009, True)])
def test_failures_are_a_fraction_of_the_images_those_skipped_among_them(run, limit, fatal):
    """Else one image that fails every night would fail every night on which nothing is new."""
    file = write_shard(run, 0, 1, [make_row("/dangling", "failed")])
    refused = pytest.raises(CommitError, match="1 of 100 images failed") if fatal else contextlib.nullcontext()
    with refused:
        commit(run, 100, [file], CommitOptions(max_failed_fraction=limit), skipped=99)
    assert Path(run.manifest_path).exists() is not fatal


def test_a_rerun_clears_its_own_stale_files_on_any_day_and_no_others(run, tmp_path):
    yesterday = Run(run.output, "r1", "2026-01-01", run.started_at)
    neighbour = Run(run.output, "r1-b", "2026-01-02", run.started_at)
    twin = Run(run.output, "r1-00000-of-00002", "2026-01-02", run.started_at)
    write_shard(yesterday, 0, 2, ROWS[:1])
    write_shard(yesterday, 1, 2, ROWS[1:])
    kept = [write_shard(other, 0, 1, ROWS)["path"] for other in (neighbour, twin)]
    file = write_shard(run, 0, 1, ROWS)
    commit(run, 3, [file], CommitOptions())
    assert files_in(run.output) == sorted(["_runs/r1.json", file["path"], *kept])


def test_the_manifest_is_gone_while_its_files_are_replaced(run):
    commit(run, 3, [write_shard(run, 0, 1, ROWS)], CommitOptions())
    retract(run)
    assert not Path(run.manifest_path).exists()
    retract(run)  # and it may be gone already


def test_a_step_that_is_repeated_when_its_run_is_over_takes_nothing_back(tmp_path):
    run, again = Run.start(str(tmp_path), "r1"), Run.start(str(tmp_path), "r1")
    retract(run)
    commit(run, 3, [write_shard(run, 0, 1, ROWS)], CommitOptions())
    before = files_in(run.output)
    retract(run)
    assert files_in(run.output) == before
    # Another attempt replaces it, whatever the first still does.
    retract(again)
    assert not Path(run.manifest_path).exists()
    commit(again, 3, [write_shard(again, 0, 1, ROWS)], CommitOptions())
    assert read_manifest(run)["attempt"] == again.attempt


def test_a_manifest_is_taken_back_without_a_look_at_those_of_other_runs(run, monkeypatch):
    for run_id in ("r1", "r1.json", "r10", "r2"):
        other = Run(run.output, run_id, run.scan_date, run.started_at)
        commit(other, 3, [write_shard(other, 0, 1, ROWS)], CommitOptions())
    list_files, listed = commit_module.list_files, []

    def kept(*arguments):
        for file in list_files(*arguments):
            listed.append(Path(file.path).name)
            yield file

    monkeypatch.setattr(commit_module, "list_files", kept)
    retract(run)
    assert sorted(listed) == ["r1.json", "r1.json.json"]
    assert sorted(path.name for path in Path(run.output, "_runs").iterdir()) == ["r1.json.json", "r10.json", "r2.json"]


def test_a_run_whose_claim_was_deleted_says_so_and_names_no_newer_one(tmp_path):
    run = Run.start(str(tmp_path), "r1")
    retract(run)
    file = write_shard(run, 0, 1, ROWS)
    Path(run.claim_path).unlink()
    with pytest.raises(CommitError, match="_tmp/r1/claim was deleted while it ran") as refused:
        commit(run, 3, [file], CommitOptions())
    assert "newer" not in str(refused.value)
    assert not Path(run.manifest_path).exists()


@pytest.mark.parametrize("output", ["file:///x", "file://localhost/x", "s3://bucket/x", "gs://", "gs:///x", "/", "//"])
def test_an_output_that_is_no_folder_to_write_to_is_refused_before_the_run(output):
    with pytest.raises(ValueError, match=output):
        Run.start(output)


@pytest.mark.parametrize(
    ("output", "root"),
    [("/x/", "/x"), ("x", f"{Path.cwd()}/x"), ("gs://bucket/", "gs://bucket"), ("gs://b/c/", "gs://b/c")],
)
def test_an_output_is_absolute_and_ends_in_no_slash(output, root):
    assert Run.start(output).output == root


def test_the_manifest_records_what_ran(run):
    file = write_shard(run, 0, 1, ROWS)
    commit(run, 3, [file], CommitOptions(recorded={"alpha": 0.01}))
    manifest = json.loads(Path(run.manifest_path).read_text())
    assert manifest["options"] == {"alpha": 0.01} and manifest["version"] == mdmf_ops.__version__
    assert manifest["inputs"] == sum(manifest["counts"]["status"].values()) == 3
    assert [f["path"] for f in manifest["files"]] == [file["path"]]


@pytest.mark.parametrize("run_id", ["", "a/b", "../x", ".hidden", "a b", "x" * 101, "a\n"])
def test_a_run_id_unfit_for_a_file_name_is_refused(run_id, tmp_path):
    if run_id == "":
        assert Run.start(str(tmp_path), run_id).run_id  # empty asks for a new one
    else:
        with pytest.raises(ValueError, match="run id"):
            Run.start(str(tmp_path), run_id)


def test_manifests_in_a_bucket_are_read_side_by_side_and_a_damaged_one_is_named(monkeypatch):
    with emulators.gcp_storage_emulator() as url, emulators.environment(url):
        bucket = Bucket("manifests")
        for i in (2, 0, 3, 1):
            write_manifest(Run(bucket.uri("out"), f"r{i}", "2026-01-02", f"2026-01-02T0{i}:00:00+00:00"), 0, [], {})
        open_file, all_four = commit_module.open_file, threading.Barrier(4, timeout=60)

        def opened_together(path):
            all_four.wait()
            return open_file(path)

        with monkeypatch.context() as patch:
            patch.setattr(commit_module, "open_file", opened_together)
            assert [manifest["run_id"] for manifest in read_manifests(bucket.uri("out"))] == ["r0", "r1", "r2", "r3"]
        bucket.put("out/_runs/r2.json", b"{")
        with pytest.raises(ManifestError, match=r"gs://manifests/out/_runs/r2\.json: not a manifest"):
            read_manifests(bucket.uri("out"))
