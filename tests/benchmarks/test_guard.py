"""`mdmf scan` against the loop that everybody writes first: a ratio may fall only knowingly.

Both run in this process, in turns, and CPU time counts, that of the decoders' processes too: a busy machine slows both
alike. It is taken between two images of each, so that what a run costs whatever its size is left out.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, encode, photo

from mdmf_ops.beam import score
from mdmf_ops.cli import main
from mdmf_ops.detector import Detector

FLOOR = 0.85
"""CPU time of the loop for an image, over that of a scan: isolated decoders, Beam and the rows may cost the rest."""

IMAGES, FIRST, ROUNDS = 28, 4, 3

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time of children is read in /proc")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


contenders, processes = load("contenders"), load("processes")


def cpu_s() -> float:
    """CPU time of this process and of all that descend from it."""
    ticks = 0
    for pid in processes.family(os.getpid()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def an_image(moments_s: list[float]) -> float:
    """CPU time of an image, from the moments at which each was done."""
    return (moments_s[-1] - moments_s[FIRST]) / (len(moments_s) - 1 - FIRST)


def keeps_up(scan_s: float, loop_s: float) -> bool:
    """Whether a scan needs little more than the loop."""
    return loop_s / scan_s >= FLOOR


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of one tile each."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(IMAGES):
        (folder / f"{i:02}.jpg").write_bytes(encode(photo(i, 512, 512), quality=90))
    return folder


def scan_s(folder, output, monkeypatch) -> float:
    moments_s, make_row = [], score.make_row

    def timed(*arguments):
        moments_s.append(cpu_s())
        return make_row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(score, "make_row", timed)
        assert main(["scan", str(folder), "--output", str(output), "--workers", "1", "--device", "cpu", "--json"]) == 0
    assert len(moments_s) == IMAGES
    return an_image(moments_s)


def loop_s(folder, detector) -> float:
    moments_s = []
    files = contenders.Files(sorted(folder.iterdir()), detector)
    for _, tiles in torch.utils.data.DataLoader(files, batch_size=None):
        contenders.mean_evidence(detector, np.asarray(tiles))
        moments_s.append(cpu_s())
    return an_image(moments_s)


def test_a_scan_keeps_up_with_a_dataloader_loop(folder, tmp_path, monkeypatch, capsys):
    detector = Detector.load(device="cpu")
    ratios = []
    for i in range(ROUNDS):
        of_scan_s, of_loop_s = scan_s(folder, tmp_path / f"{i}", monkeypatch), loop_s(folder, detector)
        ratios.append(of_loop_s / of_scan_s)
        if keeps_up(of_scan_s, of_loop_s):  # noise makes a round slower, hardly ever faster
            return
    pytest.fail(f"loop to scan: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; at least {FLOOR} in one round")


def test_a_scan_that_does_its_work_twice_does_not_keep_up(folder, tmp_path, monkeypatch, capsys):
    once = Detector.evidence

    def twice(self, tiles):
        once(self, tiles)
        return once(self, tiles)

    of_loop_s = loop_s(folder, Detector.load(device="cpu"))
    monkeypatch.setattr(Detector, "evidence", twice)
    assert not keeps_up(scan_s(folder, tmp_path / "slow", monkeypatch), of_loop_s)


def test_cpu_time_of_children_counts():
    before_s = cpu_s()
    burn = "import sys, time\nwhile time.process_time() < .5: pass\nprint(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert 0.45 < cpu_s() - before_s < 2
        child.stdin.close()
