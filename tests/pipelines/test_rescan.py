"""The whole walk, in this process: what went in, what lies in the Parquet, and what a rerun makes of it."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import BROKEN, ROOT, write_images
from scans import read_rows, scan

import mdmf_ops.beam.write
from mdmf_ops.arguments.scan import add_scan_arguments
from pipelines import rescan as rescan_pipeline


def data_files(output):
    return sorted(str(path.relative_to(output)) for path in Path(output).rglob("*.parquet"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), good=40, broken=2 * len(BROKEN))


@pytest.fixture(scope="module")
def scanned(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("scan")
    return output, scan(images, output)


def test_inputs_are_scored_or_failed_and_nothing_vanishes(images, scanned):
    output, manifest = scanned
    rows = read_rows(output)
    assert [row["image_uri"] for row in rows] == sorted(str(p) for p in images.rglob("*") if p.is_file())
    failed = [row for row in rows if row["status"] == "failed"]
    assert {Path(row["image_uri"]).parent.name for row in failed} == {"broken"}
    assert len(failed) == 2 * len(BROKEN)
    assert all(row["error_code"] and row["error_message"] for row in failed)
    assert manifest["inputs"] == 60 == sum(manifest["counts"]["status"].values())
    assert manifest["counts"]["status"] == {"failed": 20, "scored": 40}


def test_the_manifest_lists_exactly_the_files_there_are(scanned):
    output, manifest = scanned
    assert [file["path"] for file in manifest["files"]] == data_files(output)
    assert sorted(p.name for p in Path(output).iterdir()) == ["_runs", f"scan_date={manifest['scan_date']}"]


def test_evidence_means_to_the_score_and_lies_inside_the_image(scanned):
    for row in read_rows(scanned[0]):
        if row["status"] == "scored":
            assert np.mean(row["patch_evidence"]) == pytest.approx(row["mmd2"], abs=1e-6)
            assert len(row["patch_evidence"]) == len(row["tiles"]) * row["grid_rows"] * row["grid_cols"]
            for tile in row["tiles"]:
                assert tile["top_px"] + tile["height_px"] <= row["height_px"]
                assert tile["left_px"] + tile["width_px"] <= row["width_px"]


def test_the_same_run_with_other_shards_gives_the_same_rows_bit_for_bit(images, tmp_path):
    scan(images, tmp_path, num_shards=5)
    first, first_files = read_rows(tmp_path), data_files(tmp_path)
    manifest = scan(images, tmp_path, num_shards=3)
    assert read_rows(tmp_path) == first
    assert len(first_files) == 5
    assert [file["path"] for file in manifest["files"]] == data_files(tmp_path)
    assert len(manifest["files"]) == 3


def test_replayed_bundles_give_no_duplicate_row(images, tmp_path, scanned):
    # The runner processes every bundle three times, as a service does after a worker was lost.
    scan(images, tmp_path, num_shards=2, direct_runner_bundle_repeat=2)
    assert read_rows(tmp_path) == read_rows(scanned[0])


def test_a_bundle_that_fails_after_writing_is_made_good_by_the_rerun(images, tmp_path, scanned, monkeypatch):
    write_table = mdmf_ops.beam.write.write_table

    def write_then_fail(run, shard, num_shards, table):
        file = write_table(run, shard, num_shards, table)
        if shard == 1:
            raise OSError("the worker was lost")
        return file

    with monkeypatch.context() as patch:
        patch.setattr(mdmf_ops.beam.write, "write_table", write_then_fail)
        with pytest.raises(Exception, match="the worker was lost"):
            scan(images, tmp_path, num_shards=3)
    assert not list(Path(tmp_path).glob("_runs/*"))
    manifest = scan(images, tmp_path, num_shards=2)
    assert read_rows(tmp_path) == read_rows(scanned[0])
    assert [file["path"] for file in manifest["files"]] == data_files(tmp_path)


def test_a_failed_rerun_takes_the_old_manifest_back(images, tmp_path, monkeypatch):
    scan(images, tmp_path)

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(mdmf_ops.beam.write, "write_table", fail)
    with pytest.raises(Exception, match="disk full"):
        scan(images, tmp_path)
    assert not list(Path(tmp_path).glob("_runs/*"))


def test_two_runs_lie_beside_each_other(images, tmp_path):
    one = next(images.rglob("*.jpeg"))
    scan(one, tmp_path, run_id="one")
    scan(one, tmp_path, run_id="one-more")
    rows = read_rows(tmp_path)
    assert [row["run_id"] for row in rows] == ["one", "one-more"]
    assert rows[0]["row_id"] == rows[1]["row_id"]
    assert rows[0]["mmd2"] == rows[1]["mmd2"]


@pytest.mark.parametrize(
    "options", [{"output": ""}, {"run_id": "../up"}, {"num_shards": 0}, {"assets": ""}, {"skip_unchanged": ""}]
)
def test_unfit_options_are_refused_before_anything_runs(images, tmp_path, options):
    options = {"output": str(tmp_path)} | options
    with pytest.raises(ValueError):
        scan(images, options.pop("output"), **options)


def test_a_misspelt_previous_output_fails_the_run(images, tmp_path):
    with pytest.raises(Exception, match="scroes: no committed run there"):
        scan(images / "day0", tmp_path / "scores", skip_unchanged=str(tmp_path / "scroes"))
    assert not list(tmp_path.glob("scores/_runs/*"))


def rescan(*flags):
    command = [sys.executable, "-m", "pipelines.rescan", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        rescan_pipeline.main(["--help"])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    parser = argparse.ArgumentParser(add_help=False)
    add_scan_arguments(parser)
    options = [action.option_strings[0] for action in parser._actions]
    assert len(options) > 10
    assert not [option for option in (*options, "--input", "--accelerator") if f"\n  {option} " not in told.out]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--input", "a.jpg", "b.jpg", "--output=out"], "b.jpg: belongs to no flag"),
        (["--input=a.jpg", "--output=out", "-f", "b.jpg"], "b.jpg: belongs to no flag"),
        (["--input=a.jpg", "--output=out", "--of_a_runner=1", "b.jpg"], "b.jpg: belongs to no flag"),
        (["--input=a.jpg", "--output=out", "--alpha=.0001"], "alpha=0.0001 cannot be told"),
        (["--input=a.jpg", "--output=out", "--assets=."], "no readable manifest.json"),
        (["--input=a.jpg"], "no --output"),
        (["--output=out"], "no input"),
        (["--input=a.jpg", "--output=out", "--run_id=../up"], "run id '../up'"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why_before_anything_runs(refusal, flags, why):
    assert why in refusal(rescan_pipeline, flags)


def test_a_detector_that_the_workers_alone_can_read_is_left_to_them(monkeypatch):
    launched = []

    def launch(_run, options):
        launched.append(options)
        return SimpleNamespace(wait_until_finish=lambda: None)

    monkeypatch.setattr(rescan_pipeline, "launch", launch)
    flags = ["--input=gs://b/a.jpg", "--output=gs://b/out", "--of_a_runner", "its value"]
    for assets in ("gs://b/detector", "/in/their/image"):
        assert rescan_pipeline.main([*flags, f"--assets={assets}"]) == 0
    assert [options.assets for options in launched] == ["gs://b/detector", "/in/their/image"]


def test_the_command_shows_beams_log_in_which_a_service_names_the_job(images, tmp_path):
    one = next(images.rglob("*.png"))
    done = rescan("--input", one, "--output", tmp_path / "out", "--run_id", "r", "--runner=FnApiRunner")
    assert done.returncode == 0, done.stderr
    assert "INFO:apache_beam.runners" in done.stderr
    assert (tmp_path / "out/_runs/r.json").exists()
