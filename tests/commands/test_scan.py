"""How a scan runs on this machine."""

import argparse
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from conftest import encode, photo, tiny

from mdmf_ops.commands import scan


@pytest.mark.parametrize(
    ("workers", "device", "gpu", "count", "mode"),
    [
        (1, "cpu", False, 3, "in_memory"),
        (2, "cpu", False, 3, "multi_threading"),
        (4, "auto", False, 3, "multi_threading"),
        (5, "auto", False, 3, "multi_processing"),
        (2, "cpu", True, 3, "multi_threading"),
        (2, "auto", True, 3, "multi_processing"),
        (2, "cuda", True, 3, "multi_processing"),
        (2, "cpu", False, 1000, "multi_threading"),
        (2, "cpu", False, 1001, "multi_processing"),
    ],
)
def test_few_images_are_scored_by_threads_that_load_one_detector(
    monkeypatch, tmp_path, workers, device, gpu, count, mode
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for i in range(count):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    parser = argparse.ArgumentParser()
    scan.add_arguments(parser)
    arguments = parser.parse_args([str(tmp_path), "--output", "out", "--device", device, "--suffix", ".jpg"])
    assert scan._running_mode(workers, arguments) == mode


def test_images_in_a_bucket_are_not_counted_to_find_out():
    parser = argparse.ArgumentParser()
    scan.add_arguments(parser)
    assert scan._running_mode(2, parser.parse_args(["gs://no-such-bucket/in", "--device", "cpu"])) == "multi_processing"


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
