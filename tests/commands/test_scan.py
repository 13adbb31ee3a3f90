"""How a scan runs on this machine."""

import argparse
import contextlib
import json
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
from scans import read_rows

from mdmf_ops import cli
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


@pytest.mark.parametrize(("flags", "local"), [([], True), (["--runner=ARemoteRunner"], False)])
def test_only_workers_of_this_machine_count_in_a_folder_of_it(monkeypatch, tmp_path, capsys, flags, local):
    (tmp_path / "0.png").write_bytes(tiny(0))
    given = []

    def launch(_options, progress, runner):
        given.extend([progress, runner])
        raise ValueError("no such runner")  # a real one is in the cloud

    monkeypatch.setattr(scan, "launch", launch)
    command = ["scan", str(tmp_path), "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu", *flags]
    assert cli.main(command) == cli.EXIT_FAILED
    assert [value is not None for value in given] == [local, local]


@pytest.mark.parametrize("previous", ["scores", "current", "scores/"])
def test_a_rerun_that_skips_what_is_unchanged_keeps_its_rows_whatever_its_output_is_called(
    tmp_path, monkeypatch, capsys, previous
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(tiny(i))
    (tmp_path / "current").symlink_to("scores")
    command = ["scan", "photos", "--output", "scores", "--run_id", "monday", "--workers", "1", "--json"]
    for more in ([], ["--skip_unchanged", previous]):
        assert cli.main([*command, *more]) == cli.EXIT_OK
        manifest = json.loads(capsys.readouterr().out)
        assert (manifest["inputs"], manifest["skipped"]) == (3, 0)
        assert len(read_rows(tmp_path / "scores")) == 3
    # A first night, which has nothing to skip, is one by either name too.
    (tmp_path / "next").symlink_to("new")
    assert cli.main(["scan", "photos", "--output", "new", "--skip_unchanged", "next", "--dry_run"]) == cli.EXIT_OK


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
