"""The commit when its process dies at any step, its disk is full, or another run has the same id."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import emulators
import pytest
from conftest import files_in, make_row, write_images
from emulators import Bucket
from faults import enlarge, small_disk
from scans import read_rows

from mdmf_ops import cli
from mdmf_ops.beam import commit as commit_module
from mdmf_ops.beam.commit import (
    CommitError,
    CommitOptions,
    commit,
    read_manifest,
    read_manifests,
    retract,
    write_shard,
)
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.runs import collect, strays, verify_run
from mdmf_ops.beam.storage import publish

ROWS = [make_row(f"/{i}") for i in range(6)]


def whole_run(run: Run, rows: list[dict] = ROWS) -> None:
    retract(run)
    files = [write_shard(run, shard, 2, rows[shard::2]) for shard in range(2)]
    commit(run, len(rows), files, CommitOptions())


def dies_at(run: Run, step: int, before: bool) -> None:
    """The run in this process, which SIGKILLs itself before or after its step-th touch of the output."""
    steps = iter(range(1000))

    def deadly(function):
        def touch(*arguments):
            number = next(steps)
            if before and number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments)
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return touch

    for name in ("publish", "delete", "open_file", "what_is_wrong"):
        setattr(commit_module, name, deadly(getattr(commit_module, name)))
    commit_module.shutil.rmtree = deadly(commit_module.shutil.rmtree)
    whole_run(run, [make_row(f"/{i}") for i in (0, 1, 2, 3, 4, 5, 6, 7)])


def test_a_process_killed_at_any_step_leaves_no_promise_broken_and_its_rerun_is_exact(tmp_path):
    fork = multiprocessing.get_context("fork")
    deaths = 0
    for step in range(100):
        codes = []
        for before in (True, False):
            output = tmp_path / f"out{step}{before}"
            whole_run(Run.start(str(output), "r1"), ROWS)  # the night before; the killed run is to replace it
            process = fork.Process(target=dies_at, args=(Run.start(str(output), "r1"), step, before))
            process.start()
            process.join(60)
            codes.append(process.exitcode)
            for manifest in read_manifests(str(output)):
                assert verify_run(str(output), manifest) == []
            whole_run(Run.start(str(output), "r1"), ROWS)
            [manifest] = read_manifests(str(output))
            assert manifest["inputs"] == len(ROWS)
            assert sorted(files_in(output)) == ["_runs/r1.json", *(file["path"] for file in manifest["files"])]
            assert verify_run(str(output), manifest) == []
        deaths += codes.count(-signal.SIGKILL)
        if codes == [0, 0]:
            break
    assert codes == [0, 0]
    assert deaths > 15


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux says which file a descriptor is of")
def test_what_is_published_outlives_a_power_cut_under_its_name(tmp_path, monkeypatch):
    source, destination = tmp_path / "source", tmp_path / "out" / "day" / "file"
    source.write_bytes(b"rows")
    synced = []

    def fsync(descriptor):
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), destination.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    publish(source, str(destination))
    # The content before it has its name; then all names that are new, each in its folder.
    assert synced[0] == (str(source), False)
    folders = {str(folder) for folder in (destination.parent, tmp_path / "out", tmp_path)}
    assert {(folder, True) for folder in folders} == set(synced[1:])
    assert destination.read_bytes() == b"rows"


@pytest.fixture(params=["local", "gs"])
def output(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "out")
        return
    with emulators.gcp_storage_emulator() as url, emulators.environment(url):
        yield Bucket("same-id").uri("out")


def test_of_two_runs_with_one_id_the_older_is_refused_and_the_newer_is_whole(output):
    older, newer = Run.start(output, "r1"), Run.start(output, "r1")
    retract(older)
    files = [write_shard(older, 0, 2, ROWS[:3])]
    retract(newer)
    with pytest.raises(CommitError, match="run r1: started anew while it ran"):
        write_shard(older, 1, 2, ROWS[3:])
    with pytest.raises(CommitError, match="started anew"):
        commit(older, 3, files, CommitOptions())
    files = [write_shard(newer, shard, 2, ROWS[shard::2]) for shard in range(2)]
    manifest = commit(newer, len(ROWS), files, CommitOptions())
    with pytest.raises(CommitError, match="started anew"):  # and not when it is over, either
        commit(older, 3, files, CommitOptions())
    assert commit(newer, len(ROWS), files, CommitOptions()) | {"finished_at": ""} == manifest | {"finished_at": ""}
    assert read_manifest(newer)["attempt"] == newer.attempt
    assert verify_run(output, read_manifest(newer)) == []
    assert strays(output) == []


def test_a_run_that_starts_anew_while_the_older_one_lists_files_keeps_its_claim(tmp_path, monkeypatch):
    older, newer = Run.start(str(tmp_path), "r1"), Run.start(str(tmp_path), "r1")
    list_files = commit_module.list_files

    def listing(*arguments):
        monkeypatch.setattr(commit_module, "list_files", list_files)
        retract(newer)
        return list_files(*arguments)

    retract(older)
    files = [write_shard(older, 0, 1, ROWS)]
    monkeypatch.setattr(commit_module, "list_files", listing)
    with pytest.raises(CommitError, match="started anew"):
        commit(older, len(ROWS), files, CommitOptions())
    assert read_manifests(older.output) == []
    commit(newer, len(ROWS), [write_shard(newer, 0, 1, ROWS)], CommitOptions())
    assert read_manifest(newer)["attempt"] == newer.attempt


def test_two_scans_with_one_id_at_once_leave_one_whole_run(tmp_path):
    folder = write_images(tmp_path / "images", 12)
    command = [sys.executable, "-m", "mdmf_ops", "scan", str(folder), "--output", str(tmp_path / "out")]
    both = [
        subprocess.Popen([*command, "--run_id", "r1", "--workers", "1", "--json"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert codes.count(0) >= 1, errors
    assert all("started anew" in error for code, error in zip(codes, errors, strict=True) if code), errors
    [manifest] = read_manifests(str(tmp_path / "out"))
    assert verify_run(str(tmp_path / "out"), manifest) == []
    assert len(read_rows(tmp_path / "out")) == 12 == manifest["inputs"]
    assert strays(str(tmp_path / "out")) == []


def test_a_full_disk_commits_nothing_and_the_rerun_is_whole(tmp_path, capsys):
    folder = write_images(tmp_path / "images", 12)
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "ballast").write_bytes(bytes(48 << 10))
        command = ["scan", str(folder), "--output", str(disk / "out"), "--run_id", "r1", "--workers", "1"]
        assert cli.main(command) == cli.EXIT_FAILED
        assert "No space left on device" in capsys.readouterr().err
        assert read_manifests(str(disk / "out")) == []
        (disk / "ballast").unlink()
        enlarge(disk, "4m")
        assert cli.main(command) == cli.EXIT_OK
        [manifest] = read_manifests(str(disk / "out"))
        assert verify_run(str(disk / "out"), manifest) == []
        assert len(read_rows(disk / "out")) == 12
        collect(str(disk / "out"), strays(str(disk / "out")))
        assert files_in(disk / "out") == ["_runs/r1.json", *(file["path"] for file in manifest["files"])]
