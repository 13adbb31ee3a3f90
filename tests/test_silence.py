"""What scores strangers' images tells nobody of it: no process asks the internet for anything by itself."""

import os
import subprocess
import sys

import pytest
from conftest import FULL, ROOT, encode, photo
from faults import noting_proxy

TELEMETRY = "ORT_DISABLE_TELEMETRY"


def silent(**variables: str) -> dict[str, str]:
    """This process's environment, without what was set in it since it began."""
    return {name: value for name, value in os.environ.items() if name != TELEMETRY} | variables


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
    with noting_proxy() as (proxied, asked):
        subprocess.run(command, env=silent(**proxied), check=True)
    assert asked == []


SCANS = """
import sys
from pipelines.rescan import main
image, output, *runners = sys.argv[1:]
for name, runner in [("default", []), *((runner, [f"--runner={runner}"]) for runner in runners)]:
    assert main(["--input", image, "--output", f"{output}/{name}", *runner]) == 0
"""


def test_a_scan_by_beams_default_runner_asks_for_no_other_one(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(photo(0, 64, 64), "PNG"))
    command = [sys.executable, "-c", SCANS, str(tmp_path / "a.png"), str(tmp_path), "DirectRunner", "direct"]
    with noting_proxy() as (proxied, asked):
        subprocess.run(command, env=silent(**proxied), check=True, cwd=ROOT, timeout=120, capture_output=True)
    assert asked == []
    assert {path.parts[-3] for path in tmp_path.glob("*/_runs/*.json")} == {"default", "DirectRunner", "direct"}


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
