"""The benchmark of a device, run small on the CPU: what it reports is there and adds up."""

import csv
import importlib.util
import sys

import pytest
import torch
from conftest import ROOT

spec = importlib.util.spec_from_file_location("device", ROOT / "benchmarks/device.py")
device = importlib.util.module_from_spec(spec)
sys.modules["device"] = device
spec.loader.exec_module(device)


def test_a_table_and_a_csv_have_a_line_for_each_backbone_and_size(tmp_path, monkeypatch):
    dinov2 = pytest.importorskip("mdmf_ops.detector.dinov2", reason="pip install -e '.[test]', Python 3.11 or later")
    monkeypatch.setitem(dinov2.SIZES, "dinov2-small", (48, 2, 3, False))
    files = ["--csv", str(tmp_path / "out.csv"), "--markdown", str(tmp_path / "out.md")]
    small = ["--device", "cpu", "--seconds", "0.01", "--images", "2", "--threads", "2"]
    for sizes in (["64", "96"], ["64"]):
        backbones = ["--backbones", "micro", "dinov2-small"]
        assert device.main([*backbones, *small, *files, "--image_px", *sizes]) == 0
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [(row["backbone"], row["image_px"]) for row in rows]
    both = [(backbone, side) for backbone in ("micro", "dinov2-small") for side in ("64", "96")]
    assert names == [*both, ("micro", "64"), ("dinov2-small", "64")]  # the second run is appended
    for row in rows:
        assert (row["device"], row["precision"], row["threads"], row["torch"]) == (
            "cpu",
            "float32",
            "2",
            torch.__version__,
        )
        assert all(float(row[rate]) > 0 for rate in ("forward", "pixels", "bytes", "decode"))
        assert float(row["share"]) == pytest.approx(float(row["bytes"]) / float(row["forward"]), rel=0.05, abs=0.002)
        assert row["limit"] in ("network", "decoding", "overhead")
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        "| backbone",
        "| micro",
        "| dinov2-small",
    ]


def test_every_published_size_is_measured_unless_others_are_named():
    dinov2 = pytest.importorskip("mdmf_ops.detector.dinov2", reason="pip install -e '.[test]', Python 3.11 or later")
    published = ("micro", *dinov2.SIZES)
    assert published == device.BACKBONES


def test_a_rate_is_images_over_the_time_they_took(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    done = []
    # The clock is read at the start, after each time but the first, and at the end.
    assert device._rate(lambda: done.append(1), 8, 3) == 8 * (len(done) - 1) / 4
    assert len(done) == 4
