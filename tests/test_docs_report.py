"""The commands of docs/report.md run as they stand."""

import re
import shlex

import pytest
from conftest import ROOT, encode, photo, write_images
from scans import read_rows

from mdmf_ops import cli
from mdmf_ops.commands.report import MAX_GALLERY
from mdmf_ops.report.strata import MIN_IMAGES, WARN_TIMES
from mdmf_ops.report.tally import SECTIONS
from mdmf_ops.report.thumbnails import MAX_BYTES, SIDE_PX

TEXT = (ROOT / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^    (mdmf .+)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    write_images(folder / "photos", good=4, broken=1)
    (folder / "photo.jpg").write_bytes(encode(photo(1)))
    return folder


def test_every_command_runs(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    assert len(COMMANDS) == 9
    for command in COMMANDS:
        arguments = shlex.split(command.replace("RUN_ID", "r1"))[1:]
        if "scan" in arguments:
            arguments += ["--run_id", "r1", "--workers", "1"]
        if "ROW_ID" in arguments:
            arguments[arguments.index("ROW_ID")] = next(r["row_id"] for r in read_rows(here / "scores") if r["verdict"])
        assert cli.main(arguments) == 0, command
    assert {"report.html", "newest.html", "one_run.html"} <= {path.name for path in here.iterdir()}
    pictures = [path.name for path in (here / "explained").iterdir()]
    assert all(name.endswith(("-map.png", "-p_value.svg")) for name in pictures) and len(pictures) == 4


def test_the_limits_are_those_of_the_code():
    assert f"({SIDE_PX} px, at most {MAX_BYTES >> 10} kB each, at most {MAX_GALLERY * len(SECTIONS)} of" in TEXT
    assert f"from {MIN_IMAGES} images on" in TEXT and WARN_TIMES == 3 and "three times alpha" in TEXT
