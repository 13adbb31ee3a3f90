"""How a scan runs on this machine."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from apache_beam.options.pipeline_options import DirectOptions
from conftest import encode, photo, tiny

from mdmf_ops.commands import scan


@pytest.mark.parametrize(
    ("workers", "device", "gpu", "forkable", "expected"),
    [
        (1, "cpu", False, True, "in_memory"),
        (2, "cpu", False, True, "forks"),
        (64, "auto", False, True, "forks"),
        (2, "cpu", True, True, "forks"),
        (2, "auto", True, True, "multi_processing"),
        (2, "cuda", True, True, "multi_processing"),
        (2, "cpu", False, False, "multi_processing"),
    ],
)
def test_workers_are_forks_where_they_may_be(monkeypatch, workers, device, gpu, forkable, expected):
    """A process that has touched a GPU, or has other threads, is not forked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(scan, "can_fork", lambda: forkable)
    parser = argparse.ArgumentParser()
    scan.add_arguments(parser)
    arguments = parser.parse_args(["in", "--output", "out", "--device", device, "--workers", str(workers)])
    options = scan._options(arguments, [])
    entered = contextlib.nullcontext(SimpleNamespace(environment="forks"))
    with contextlib.ExitStack() as stack:
        # A nursery is real in tests/beam/test_forked.py; pytest's own process has threads.
        monkeypatch.setattr(scan, "ForkedWorkers", lambda quiet: entered)
        runner = scan._workers(options, arguments, stack)
    mode = options.view_as(DirectOptions).direct_running_mode
    assert ("forks" if runner._default_environment == "forks" else mode) == expected
    assert options.view_as(DirectOptions).direct_num_workers == workers


@pytest.fixture
def images(tmp_path):
    """Far more images than are scored before a test is over with them."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encode(photo(0, 512, 512)))
    for i in range(1, 1000):
        os.link(folder / "0.jpg", folder / f"{i}.jpg")
    return folder


def start(images, output, *more, **environment):
    """`mdmf scan` on two workers."""
    where = [images, "--output", output, "--workers", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "mdmf_ops", "scan", *where, *more]
    # Tests that a shell runs in the background ignore interrupts, and whatever they start would too.
    heeds_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=heeds_interrupts,
    )


def test_a_scan_that_is_interrupted_ends_at_once_and_says_how_to_go_on(images, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(images, tmp_path / "out", TMPDIR=str(temporary))
    deadline_s = time.monotonic() + 120
    while not list(temporary.glob("mdmf-*/done-*")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors == "mdmf scan: interrupted; the same command with the same --run_id goes on\n"
    assert process.returncode == 1
    assert not list(temporary.glob("mdmf-*/done-*"))
    assert not list((tmp_path / "out").glob("_runs/*"))


def test_a_scan_that_fails_on_two_workers_says_so_in_a_line(tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.png").write_bytes(tiny(0))
    (few / "broken.png").write_bytes(b"no image")
    process = start(few, tmp_path / "out", "--max_failed_fraction", "0")
    _, errors = process.communicate(timeout=120)
    [line] = errors.splitlines()
    assert "1 of 2 images failed" in line and process.returncode == 1
