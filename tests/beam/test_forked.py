"""Workers as forks: real pipelines, real processes, killed ones."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import ROOT, encode, photo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")

DEADLINE_S = 300

PROGRAM = """
import json, os, sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from mdmf_ops.beam.forked import can_fork, forked_workers

INHERITED = object()
AT = id(INHERITED)

def seen(number):
    {body}
    return number, os.getpid(), id(INHERITED) == AT

def main():
    assert can_fork()
    with forked_workers() as environment:
        runner = FnApiRunner(default_environment=environment)
        options = PipelineOptions([], direct_num_workers=2)
        with beam.Pipeline(runner, options=options) as pipeline:
            (
                pipeline | beam.Create(range(20)) | beam.Reshuffle() | beam.Map(seen)
                | beam.Map(json.dumps) | beam.io.WriteToText(sys.argv[1])
            )

if __name__ == "__main__":
    import program
    program.main()
"""


def start(tmp_path, body="pass"):
    (tmp_path / "program.py").write_text(PROGRAM.replace("{body}", textwrap.indent(body, "    ").strip()))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "out")]
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit('a stranger on the search path')")
    return subprocess.Popen(command, env=environment, cwd=here, stderr=subprocess.PIPE, text=True)


def rows(tmp_path):
    return [json.loads(line) for part in tmp_path.glob("out*") for line in part.read_text().splitlines()]


def wait_until(condition):
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)  # between two looks


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_are_forks_that_do_all_of_the_work(tmp_path):
    process = start(tmp_path)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    found = rows(tmp_path)
    assert sorted(number for number, _, _ in found) == list(range(20))
    # What the parent had in memory is at its place: they have imported nothing.
    assert all(inherited for _, _, inherited in found)
    pids = {pid for _, pid, _ in found}
    assert process.pid not in pids
    assert not any(map(is_running, pids))


def test_a_worker_that_dies_fails_the_run(tmp_path):
    process = start(tmp_path, "if number == 7: os._exit(3)")
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    assert errors
    assert not rows(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_killed_run(tmp_path, how):
    process = start(tmp_path, f"open({str(tmp_path)!r} + f'/pid-{{os.getpid()}}', 'w').close(); time.sleep(600)")
    wait_until(lambda: list(tmp_path.glob("pid-*")))
    pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    process.send_signal(how)
    process.communicate(timeout=DEADLINE_S)
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_process_of_several_threads_is_not_forked(tmp_path):
    program = """
    import threading
    from mdmf_ops.beam.forked import can_fork
    assert can_fork()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not can_fork()
    done.set()
    thread.join()
    assert can_fork()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def test_a_scan_by_forks_is_quiet_and_leaves_nothing(tmp_path):
    images, temporary = tmp_path / "images", tmp_path / "tmp"
    images.mkdir()
    temporary.mkdir()
    for i in range(5):
        (images / f"{i}.jpg").write_bytes(encode(photo(i, 128, 128)))
    program = """
    import sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from mdmf_ops.cli import main
    from mdmf_ops.commands import scan
    import grpc
    entered = []
    forked_workers = scan.forked_workers
    scan.forked_workers = lambda quiet: entered.append(1) or forked_workers(quiet)
    status = main(["scan", *sys.argv[1:], "--device", "cpu", "--workers", "2", "--json"])
    assert entered == [1]
    # As Beam may end its server while a worker still listens; gRPC's C writes of it, if it is let.
    begun, ended = threading.Event(), threading.Event()
    echo = grpc.stream_stream_rpc_method_handler(lambda requests, _context: begun.set() or requests)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("s", {"echo": echo})])
    port = server.add_insecure_port("localhost:0")
    server.start()
    answers = grpc.insecure_channel(f"localhost:{port}").stream_stream("/s/echo")(iter(ended.wait, True))
    begun.wait()
    server.stop(None).wait()
    assert answers.code() is grpc.StatusCode.UNAVAILABLE
    ended.set()
    sys.exit(status)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), images, "--output", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout)["inputs"] == 5
    assert not list(temporary.glob("mdmf-*"))
