"""The example in Beam YAML, run as its first lines say, and what lies in its files."""

import json
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from conftest import ROOT, write_images
from scans import read_rows

from mdmf_ops.beam.commit import read_manifests
from mdmf_ops.beam.yaml import ReadAndScore

pytest.importorskip("apache_beam.yaml.yaml_transform", reason="pip install 'mdmf-ops[yaml]'")


def json_lines(folder, prefix):
    return [json.loads(line) for path in folder.glob(f"{prefix}*") for line in path.read_text().splitlines()]


def test_the_example_commits_a_run_and_writes_what_it_flags(tmp_path):
    photos = write_images(tmp_path / "photos", good=6, broken=2)
    variables = {"photos": str(photos), "scores": str(tmp_path / "scores"), "flagged": str(tmp_path / "flagged")}
    command = [sys.executable, "-m", "apache_beam.yaml.main", "--runner=FnApiRunner"]
    example = [f"--yaml_pipeline_file={ROOT / 'examples/scan.yaml'}", f"--jinja_variables={json.dumps(variables)}"]
    done = subprocess.run([*command, *example], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]

    rows = read_rows(tmp_path / "scores")
    assert len(rows) == 8
    [run] = json_lines(tmp_path, "flagged-run")
    assert (run["inputs"], run["scored"], run["failed"]) == (8, 6, 2)
    flagged = {row["image_uri"] for row in json_lines(tmp_path, "flagged-0")}
    assert flagged == {row["image_uri"] for row in rows if row["verdict"] == "likely_ai"}


def test_without_an_output_no_folder_is_needed(tmp_path, monkeypatch, run_pipeline):
    photos = write_images(tmp_path / "photos", good=1, broken=1)
    monkeypatch.chdir("/")  # as containers have it
    with run_pipeline() as p:
        images = p | ReadAndScore([str(photos)], device="cpu")
        assert_that(images | beam.Map(lambda image: image.status), equal_to(["scored", "failed"]))


def test_what_an_earlier_run_wrote_is_no_image_of_the_next(tmp_path, run_pipeline):
    photos = write_images(tmp_path / "photos", good=1)
    for _night in range(2):
        with run_pipeline() as p:
            p | ReadAndScore([str(photos)], device="cpu", output=str(photos / "scores"))
    assert [manifest["inputs"] for manifest in read_manifests(str(photos / "scores"))] == [1, 1]
