"""The soak's own measure: what grows is found, what does not is let be."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pubsub import wait_for


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", ROOT / "benchmarks/soak.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["soak"]


def test_a_leak_breaks_its_bound_and_noise_does_not(soak):
    hours = np.linspace(0, 0.5, 900)
    noise = np.random.default_rng(0).normal(0, 5, hours.size)
    flat, leak = soak._trend(hours, 400 + noise), soak._trend(hours, 400 + 120 * hours + noise)
    assert leak.per_hour == pytest.approx(120, abs=5) and leak.grown == pytest.approx(60, abs=3)
    few = soak._trend(hours, 20 + 4 * hours)
    assert soak.broken_bounds({"memory_mb": flat, "descriptors": few, "threads": few}, mb_per_hour=40) == []
    [line] = soak.broken_bounds({"memory_mb": leak, "descriptors": few}, mb_per_hour=40)
    assert line.startswith("memory_mb grew by ")
    assert soak.broken_bounds({"memory_mb": leak}, mb=50) == []  # a scan's rows
    many = soak._trend(hours, 20 + 40 * hours)
    assert len(soak.broken_bounds({"descriptors": many, "threads": many}, mb_per_hour=40)) == 2


def test_a_process_is_measured_with_what_it_started(soak):
    if not Path("/proc/self/task").exists():
        pytest.skip("memory and descriptors of a process are read from /proc, which is Linux's")
    code = "import subprocess, sys; sys.stdout.write('up'); sys.stdout.flush(); subprocess.run(['sleep', '60'])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert parent.stdout.read(2) == b"up"
        wait_for(lambda: len(soak.family(parent.pid)) == 2, 60, "the child")
        found = soak.resources(parent.pid)
        assert found["threads"] == 2 and found["descriptors"] >= 6 and found["memory_mb"] > 3
    finally:
        for pid in reversed(soak.family(parent.pid)):
            os.kill(pid, 9)
        parent.wait(20)
    assert soak.resources(parent.pid) == {}
