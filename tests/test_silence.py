"""What scores strangers' images tells nobody of it: no process asks the internet for anything by itself."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import FULL, encode, photo

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
    """Every connection that libraries would make goes through this proxy, which answers nothing."""
    (tmp_path / "a.png").write_bytes(encode(photo(0, 64, 64), "PNG"))
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

        threading.Thread(target=note, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        environment |= {"https_proxy": url, "http_proxy": url, "HTTPS_PROXY": url, "HTTP_PROXY": url}
        command = [sys.executable, "-c", SCORE, str(tmp_path / "a.png"), str(stays_s)]
        subprocess.run(command, env=environment, check=True)
        proxy.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()
    assert asked == []


IMPORTED = """
import builtins, os
imported, plain = [], builtins.__import__
def noted(name, *rest):
    if name.partition(".")[0] == "onnxruntime":
        imported.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
    return plain(name, *rest)
builtins.__import__ = noted
import mdmf_ops.detector.detector
print(*{*imported})
"""


@pytest.mark.parametrize(("before", "then"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_before_the_library_that_has_it_is_loaded_unless_somebody_wants_it(before, then):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | before
    done = subprocess.run([sys.executable, "-c", IMPORTED], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [then]
