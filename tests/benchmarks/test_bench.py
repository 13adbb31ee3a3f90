"""The comparison compares equal work, and adds up what it says."""

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT, encode, photo
from PIL import Image


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench, contenders = load("bench"), load("contenders")


@pytest.mark.parametrize(
    ("scores", "says"),
    [({"a": 0.1}, "not the same work"), ({"a": 0.1, "b": 0.3}, "off"), ({"a": 0.1, "c": 0.2}, "not the same work")],
)
def test_a_contender_that_did_other_work_stops_the_comparison(scores, says):
    with pytest.raises(SystemExit, match=says):
        bench.check_equal("x", scores, {"a": 0.1, "b": 0.2})


def test_a_steady_rate_knows_neither_the_start_nor_the_end():
    # Ten images a second, but for a slow first one and a worker that ends alone.
    times_s = [0.0, *(5 + i / 10 for i in range(98)), 60.0]
    assert contenders.steady_rate(times_s[::-1]) == pytest.approx(10)


def test_ratios_are_taken_within_a_round():
    # The second round ran on a machine twice as slow: no ratio changes.
    rounds = [{"ideal": {"images_per_s": 10.0 / slow}, "x": {"images_per_s": 9.0 / slow}} for slow in (1, 2)]
    ideal, other = bench.summarise(rounds, {"ideal": 1.2, "x": 2.2})
    assert (ideal["to_ideal"], other["to_ideal"], other["to_dataloader"]) == (1.0, 0.9, None)
    assert (other["least"], other["most"], other["peak_mb"]) == (4.5, 9.0, 2)


def test_a_set_has_as_many_images_of_the_size_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(bench._DISTINCT, "400px", 3)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/one.png").write_bytes(encode(photo(1), "PNG"))
    bench.make_images(tmp_path / "set", tmp_path / "photographs", "400px", 5)
    images = sorted((tmp_path / "set").iterdir())
    assert len(images) == 5 and {Image.open(image).size for image in images} == {(400, 300)}
    assert len({image.read_bytes() for image in images}) == 3


def test_memory_of_children_counts():
    script = "import sys; held = bytearray(200 << 20); print(flush=True); sys.stdin.read()"
    before_kb = bench.tree_kb(os.getpid())
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        grown_kb = bench.tree_kb(os.getpid()) - before_kb
        child.stdin.close()
    assert 150 << 10 < grown_kb < 400 << 10
