"""What scores strangers' images tells nobody of it: no process asks the internet for anything by itself."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from conftest import FULL, ROOT, encode, photo

TELEMETRY = "ORT_DISABLE_TELEMETRY"


def silent(**variables: str) -> dict[str, str]:
    """This process's environment, without what was set in it since it began."""
    return {name: value for name, value in os.environ.items() if name != TELEMETRY} | variables


@contextlib.contextmanager
def noting_proxy() -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """An environment in which libraries make every connection through a proxy, and what that, which is silent, is
    asked for."""
    asked, kept = [], []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def note() -> None:
            while True:
                try:
                    connection = proxy.accept()[0]
                except OSError:  # closed
                    return
                kept.append(connection)
                asked.append(connection.recv(200))

        thread = threading.Thread(target=note, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        yield silent(https_proxy=url, http_proxy=url, no_proxy="127.0.0.1,localhost"), asked
        proxy.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


SCORE = """
import sys, time
from mdmf_ops.detector import Detector
Detector.load(device="cpu").score([open(sys.argv[1], "rb").read()])
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "stays_s",
    [0, pytest.param(30, marks=pytest.mark.skipif(not FULL, reason="MDMF_FULL=1: ONNX Runtime asks after 10 s"))],
)
def test_scoring_asks_for_no_connection(tmp_path, stays_s):
    (tmp_path / "a.png").write_bytes(encode(photo(0, 64, 64), "PNG"))
    command = [sys.executable, "-c", SCORE, str(tmp_path / "a.png"), str(stays_s)]
    with noting_proxy() as (environment, asked):
        subprocess.run(command, env=environment, check=True)
    assert asked == []


@pytest.mark.parametrize("runner", [[], ["--runner=DirectRunner"], ["--runner=direct"]], ids=" ".join)
def test_a_scan_by_beams_default_runner_asks_for_no_other_one(tmp_path, runner):
    (tmp_path / "a.png").write_bytes(encode(photo(0, 64, 64), "PNG"))
    command = [sys.executable, "-m", "pipelines.rescan", "--input", str(tmp_path / "a.png")]
    with noting_proxy() as (environment, asked):
        command += ["--output", str(tmp_path / "scores"), *runner]
        subprocess.run(command, env=environment, check=True, cwd=ROOT, timeout=120, capture_output=True)
    assert asked == []
    assert list(tmp_path.glob("scores/_runs/*.json"))


IMPORTED = f"""
import builtins, os
imported, plain = [], builtins.__import__
def noted(name, *rest):
    if name.partition(".")[0] == "onnxruntime":
        imported.append(os.environ.get("{TELEMETRY}"))
    return plain(name, *rest)
builtins.__import__ = noted
import mdmf_ops.detector.detector
print(*{{*imported}})
"""


@pytest.mark.parametrize(("before", "then"), [({}, "1"), ({TELEMETRY: "0"}, "0")])
def test_telemetry_is_off_before_the_library_that_has_it_is_loaded_unless_somebody_wants_it(before, then):
    command = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(command, env=silent(**before), check=True, capture_output=True, text=True)
    assert done.stdout.split() == [then]
