"""What README shows runs as it stands; its commands and links are checked with those of every page."""

import json
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, encode, photo, write_images
from pages import indented

BLOCKS = indented(ROOT / "README.md")
SNIPPETS = [block for block in BLOCKS if "import " in block]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(encode(photo(1)))
    write_images(tmp_path / "photos", good=4, broken=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_readme_is_a_detector_and_a_pipeline():
    assert len(SNIPPETS) == 2
    assert "Detector.load()" in SNIPPETS[0] and len([line for line in SNIPPETS[0].splitlines() if line]) <= 5
    assert "beam.Pipeline(" in SNIPPETS[1]


def test_one_image_in_five_lines(here, capsys):
    exec(compile(SNIPPETS[0], "README.md", "exec"), {})
    verdict, p_value = capsys.readouterr().out.split()
    assert verdict in ("likely_ai", "uncertain", "likely_real")
    assert 0 < float(p_value) <= 1


def test_the_pipeline_commits_a_run(here):
    exec(compile(SNIPPETS[1], "README.md", "exec"), {})
    [manifest] = Path("scores/_runs").glob("*.json")
    assert json.loads(manifest.read_text())["counts"]["status"] == {"failed": 1, "scored": 4}
    [query] = [block for block in BLOCKS if block.lstrip().startswith("select ")]
    assert sum(images for _verdict, images in duckdb.sql(query).fetchall()) == 5
