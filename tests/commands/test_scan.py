"""How a scan runs on this machine."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial

import pytest
import torch
from apache_beam.options.pipeline_options import DirectOptions
from conftest import ROOT, encode, files_in, make_row, photo, tiny
from declared import anchor, signed
from emulators import Bucket, CountingProxy, environment, fake_gcs_server
from scans import read_rows

from mdmf_ops import cli
from mdmf_ops.arguments.scan import add_arguments
from mdmf_ops.beam import shards
from mdmf_ops.beam.commit import CommitOptions, ManifestError, commit, write_shard
from mdmf_ops.beam.run import Run
from mdmf_ops.commands import scan
from mdmf_ops.progress import Progress


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
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # to be as it was when this is over
    monkeypatch.setattr(scan, "can_fork", lambda: forkable)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["in", "--output", "out", "--device", device, "--workers", str(workers)])
    options = scan._options(arguments, [])
    with contextlib.ExitStack() as stack:
        # A nursery is real in tests/beam/test_forked.py; pytest's own process has threads.
        monkeypatch.setattr(scan, "forked_workers", lambda quiet: contextlib.nullcontext("forks"))
        runner = scan._workers(options, arguments, stack)
    mode = options.view_as(DirectOptions).direct_running_mode
    assert ("forks" if runner._default_environment == "forks" else mode) == expected
    assert options.view_as(DirectOptions).direct_num_workers == workers


@pytest.mark.skipif(sys.version_info < (3, 11), reason="what keeps the working folder out is of Python 3.11")
def test_no_file_in_the_working_folder_stands_in_for_a_module_of_a_worker(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger on the search path')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setattr(scan, "can_fork", lambda: False)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["in", "--output", "out", "--device", "cpu", "--workers", "2"])
    command = [sys.executable, "-m", "json.tool", "--help"]  # as Beam starts a worker
    assert subprocess.run(command, capture_output=True).returncode != 0
    with contextlib.ExitStack() as stack:
        scan._workers(scan._options(arguments, []), arguments, stack)
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize(("flags", "local"), [([], True), (["--runner=ARemoteRunner"], False)])
def test_only_workers_of_this_machine_count_in_a_folder_of_it(monkeypatch, tmp_path, capsys, flags, local):
    (tmp_path / "0.png").write_bytes(tiny(0))
    given = []

    def launch(_run, _options, progress, runner):
        given.extend([progress, runner])
        raise ValueError("no such runner")  # a real one is in the cloud

    monkeypatch.setattr(scan, "launch", launch)
    command = ["scan", str(tmp_path), "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu", *flags]
    assert cli.main(command) == cli.EXIT_FAILED
    assert [value is not None for value in given] == [local, local]


def test_a_scan_whose_filters_leave_no_image_says_so(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(tiny(0))
    command = ["scan", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--workers", "1", "--json"]
    for suffix, inputs, said in ((".png", 1, ""), (".pgn", 0, "mdmf scan: no image was scanned: the filters left")):
        assert cli.main([*command, "--suffix", suffix]) == cli.EXIT_OK
        found = capsys.readouterr()
        assert json.loads(found.out)["inputs"] == inputs
        assert found.err.startswith(said) and bool(found.err) is bool(said)


def test_an_output_whose_name_looks_like_markup_is_shown_as_it_is(tmp_path, capsys):
    (tmp_path / "0.png").write_bytes(tiny(0))
    output = tmp_path / "[red]" / "a[" / "b]"
    command = ["scan", str(tmp_path / "0.png"), "--output", str(output), "--workers", "1", "--run_id", "r"]
    assert cli.main(command) == cli.EXIT_OK
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{'parquet':12} {output}",
        f"{'manifest':12} {output}/_runs/r.json",
    ]


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


def start(images, output, *more, workers=2, **environment):
    """`mdmf scan`, on two workers if nothing else is said."""
    where = [images, "--output", output, "--workers", str(workers), "--device", "cpu"]
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_scan_that_is_told_to_stop_ends_at_once_and_says_that_it_starts_anew(images, tmp_path, workers, number):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(images, tmp_path / "out", workers=workers, TMPDIR=str(temporary))
    deadline_s = time.monotonic() + 120
    while not list(temporary.glob("mdmf-*/done-*")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert errors == "mdmf scan: interrupted; the same command starts it anew\n"
    assert process.returncode == 1
    assert not list(temporary.glob("mdmf-*"))
    assert not list((tmp_path / "out").glob("_runs/*"))


def test_a_worker_that_is_killed_is_told_in_a_line(images, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(images, tmp_path / "out", TMPDIR=str(temporary))
    deadline_s = time.monotonic() + 120
    while not (done := list(temporary.glob("mdmf-*/done-*"))):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.02)
    os.kill(int(done[0].name.removeprefix("done-")), signal.SIGKILL)  # as by a system that runs out of memory
    _, errors = process.communicate(timeout=120)  # the other worker may first score all that it has
    assert errors.startswith("mdmf scan: the run is not complete: a worker died") and len(errors.splitlines()) == 1
    assert process.returncode == 1
    assert not list((tmp_path / "out").glob("_runs/*"))


@pytest.mark.parametrize("what", ["an image failed", "an earlier file is damaged", "the store says 403"])
def test_a_scan_that_fails_on_two_workers_says_so_in_a_line(tmp_path, what):
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.png").write_bytes(tiny(0))
    (few / "broken.png").write_bytes(b"no image")
    with CountingProxy("http://nowhere") as store:
        store.before = lambda _kind, _name: 403
        if what == "an image failed":
            process = start(few, tmp_path / "out", "--max_failed_fraction", "0")
            told = "CommitError: run "
        elif what == "the store says 403":
            process = start("gs://bucket/few", tmp_path / "out", STORAGE_EMULATOR_HOST=store.url)
            told = f"Forbidden: 403 GET {store.url}"
        else:
            (earlier := add_run(tmp_path / "out")).write_bytes(b"x")
            process = start(few, tmp_path / "out", "--skip_unchanged", tmp_path / "out")
            told = f"OSError: {earlier}: damaged or out of reach: Parquet file size is 1 bytes"
        _, errors = process.communicate(timeout=120)
    [line] = errors.splitlines()
    assert line.startswith(f"mdmf scan: the run is not complete: {told}") and process.returncode == 1
    assert what != "an image failed" or "1 of 2 images failed" in line


def add_run(output):
    """Commits a run of one row; gives its data file."""
    run = Run(str(output), "monday", "2026-01-02", "2026-01-02T00:00:00+00:00")
    file = write_shard(run, 0, 1, [make_row("/a.png")])
    commit(run, 1, [file], CommitOptions())
    return output / file["path"]


OF_A_WORKER = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1512, in apache_beam.runners.common.DoFnRunner.process
{first}

{how}

Traceback (most recent call last):
  File "/lib/apache_beam/runners/worker/sdk_worker.py", line 310, in _execute
    response = task()
{last}
"""


@pytest.mark.parametrize(
    ("first", "last", "cause"),
    [
        # Of what a step raises Beam tells the class by its module, and says it again with the step's name.
        *(
            (f"{module}{cause}", f"{again}{module}{cause} [while running 'Match/Split']", cause)
            for module, again, cause in [
                ("google.api_core.exceptions.", "", "Forbidden: 403 GET http://x/: no access"),
                ("pyarrow.lib.", "", "ArrowInvalid: no footer"),
                ("", "RuntimeError: ", "FileNotFoundError: [Errno 2] No such file or directory: '/a'"),
                ("", "", "RuntimeError: the device is gone"),
                ("zlib.", "", "error: incorrect header check"),
            ]
        ),
        # What led to it is not the reason that names the file.
        (
            "json.decoder.JSONDecodeError: Expecting value: line 1",
            "mdmf_ops.beam.commit.ManifestError: /r.json: no manifest: Expecting value [while running 'x/y']",
            "ManifestError: /r.json: no manifest: Expecting value",
        ),
        # A reason of two lines; and one that no step raised.
        (
            "OSError: /a: no page\nno header\n",
            "OSError: /a: no page\nno header\n [while running 'x']",
            "OSError: /a: no page",
        ),
        (
            "ModuleNotFoundError: No module named 'x'",
            "RuntimeError: the worker is gone",
            "ModuleNotFoundError: No module named 'x'",
        ),
    ],
)
def test_of_what_workers_tell_the_cause_is_said(first, last, cause):
    how = "During handling of the above exception, another exception occurred:"
    text = OF_A_WORKER.format(first=first, how=how, last=last)
    assert scan._plain(RuntimeError(text)) == cause


def test_of_what_this_process_raises_the_cause_is_said_without_the_step():
    assert scan._plain(ManifestError("/r.json: none [while running 'x/y']")) == "ManifestError: /r.json: none"
    assert scan._plain(RuntimeError("OSError: /r [while running 'x']")) == "OSError: /r"
    assert scan._plain(ValueError("no such runner")) == "ValueError: no such runner"


@pytest.mark.parametrize(
    ("what", "status"), [("manifest", cli.EXIT_USAGE), ("data", cli.EXIT_FAILED), ("list", cli.EXIT_USAGE)]
)
@pytest.mark.parametrize("store", ["local", "gs"])
def test_a_dry_run_says_in_a_line_what_is_damaged(tmp_path, capsys, what, status, store):
    (tmp_path / "a.png").write_bytes(tiny(0))
    (tmp_path / "list.csv").write_text(f"uri\n{tmp_path}/a.png\n{'x' * 200_000}\n")
    output = tmp_path / "out"
    path = add_run(output)
    damaged = {"manifest": output / "_runs/monday.json", "data": path, "list": tmp_path / "list.csv"}[what]
    if what != "list":
        damaged.write_bytes(b"x")
    with fake_gcs_server() as url, environment(url):
        if store == "gs":
            bucket = Bucket("dry")
            for name in files_in(tmp_path):
                bucket.put(name, (tmp_path / name).read_bytes())
        root = bucket.uri("") if store == "gs" else f"{tmp_path}/"
        source = ["--input_list", f"{root}list.csv"] if what == "list" else [f"{root}a.png"]
        command = ["scan", *source, "--output", f"{root}out", "--skip_unchanged", f"{root}out"]
        assert cli.main([*command, "--dry_run"]) == status
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mdmf scan: {root}{damaged.relative_to(tmp_path)}: ")
        if what != "list" and store == "gs":
            assert cli.main([*command[:-1], f"{root}uot", "--dry_run"]) == cli.EXIT_FAILED
            assert f"--skip_unchanged {root}uot: no committed run there" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--skip_unchanged", "--assets"])
def test_an_empty_name_is_refused(tmp_path, monkeypatch, capsys, option):
    (tmp_path / "a.png").write_bytes(tiny(0))
    add_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["scan", "a.png", "--output", "out", "--workers", "1", option, ""]
    assert cli.main(command) == cli.EXIT_USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_the_bar_leads_to_what_is_to_be_scored_and_not_to_what_is_skipped(tmp_path):
    progress = Progress(str(tmp_path))
    bar = scan.Bar()
    bar.add_task("", total=None)

    def look():
        scan._look(progress, bar)
        return bar.tasks[0].description, bar.tasks[0].completed, bar.tasks[0].total

    progress.add("listed", 7)
    assert look() == ("listing: 7 images", 0, None)
    progress.add("skipped", 5)
    progress.add("done", 1)
    assert look() == ("scoring", 1, 2)


def test_a_dry_run_asks_for_eight_images_of_a_list_at_once_and_opens_a_shard_once(tmp_path, monkeypatch, capsys):
    def planned(*more):
        command = ["scan", "--input_list", tmp_path / "list.txt", "--output", tmp_path / "out", "--dry_run", "--json"]
        assert cli.main([str(word) for word in (*command, *more)]) == cli.EXIT_OK
        return json.loads(capsys.readouterr().out)

    images = [tiny(i) for i in range(16)]
    eight = threading.Barrier(8)

    def wait_for_eight(kind, _name):
        if kind == "metadata":
            with contextlib.suppress(threading.BrokenBarrierError):
                eight.wait(30)

    with fake_gcs_server() as url, CountingProxy(url) as store:
        with environment(url):
            bucket = Bucket("dry")
            for i, content in enumerate(images):
                bucket.put(f"{i}.png", content)
        (tmp_path / "list.txt").write_text("".join(f"{bucket.uri(f'{i}.png')}\n" for i in range(16)))
        store.before = wait_for_eight
        with environment(store.url):
            plan = planned("--min_bytes", 1)
    assert (plan["images"], plan["bytes"], plan["of_unknown_size"]) == (16, sum(map(len, images)), 0)
    assert not eight.broken

    for shard in "abc":
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in range(4):
                (tmp_path / "image").write_bytes(images[i])
                tar.add(tmp_path / "image", f"{i}.png")
    (tmp_path / "list.txt").write_text("".join(f"{shard}.tar#{i}.png\n" for i in range(4) for shard in "abc"))
    opened, open_file = [], shards.open_file
    monkeypatch.setattr(shards, "open_file", lambda uri, generation: opened.append(uri) or open_file(uri, generation))
    assert planned()["images"] == 12
    assert sorted(opened) == [f"{tmp_path}/{shard}.tar" for shard in "abc"]


def test_signatures_that_lead_to_a_certificate_of_c2pa_trust_are_trusted(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/signed.jpg").write_bytes(signed("JPEG"))
    (tmp_path / "trust.pem").write_text(f"# für alle\n{anchor()}")
    rows = {}
    for name, flags in (("with", ["--c2pa_trust", str(tmp_path / "trust.pem")]), ("without", [])):
        scan = ["scan", str(tmp_path / "photos"), "--output", str(tmp_path / name), "--run_id", "r", "--workers", "1"]
        assert cli.main([*scan, *flags]) == cli.EXIT_OK
        [rows[name]] = read_rows(tmp_path / name)
    assert (rows["with"]["c2pa_signature"], rows["without"]["c2pa_signature"]) == ("trusted", "valid")
    assert rows["with"]["mmd2"] == rows["without"]["mmd2"]
    options = json.loads((tmp_path / "with/_runs/r.json").read_text())["options"]
    assert options["c2pa_trust"] == str(tmp_path / "trust.pem")


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"none", "no certificates in PEM"), (bytes(3 << 20), "at most")]
)
def test_certificates_that_cannot_be_had_are_told_before_anything_is_scored(tmp_path, capsys, content, why):
    path = tmp_path / "trust.pem"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["scan", str(ROOT / "samples"), "--output", str(tmp_path / "out"), "--c2pa_trust", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--c2pa_trust {path}: " in line and why in line
    assert not (tmp_path / "out").exists()
