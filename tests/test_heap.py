"""What a process keeps of free memory, by the pages that it has to ask for again."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told what to keep")

ROUNDS, PIECE_BYTES = 50, 8 << 20

# Takes and frees what two layers of a network would, many times; prints page faults a round, and MB kept at the end.
PROGRAM = f"""
import resource, sys
import numpy as np
from mdmf_ops.heap import give_back_memory, keep_free_memory, keep_no_free_memory
if "keep" in sys.argv:
    keep_free_memory()
if "no_longer" in sys.argv:
    keep_no_free_memory()
faults = []
for _ in range({ROUNDS}):
    pieces = [np.ones({PIECE_BYTES}, np.uint8) for _ in range(2)]
    del pieces
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
give_back_memory()
print((faults[-1] - faults[4]) / {ROUNDS - 5}, before - resident())
"""


def run(*arguments: str) -> tuple[float, int]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    faults, given_back_bytes = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.split()
    return float(faults), int(given_back_bytes)


def test_a_process_that_keeps_its_free_memory_does_not_ask_for_it_again():
    faults, given_back_bytes = run("keep")
    assert faults < 5
    assert given_back_bytes > PIECE_BYTES


def test_until_it_no_longer_keeps_it():
    faults, given_back_bytes = run("keep", "no_longer")
    assert faults > 100
    assert given_back_bytes < PIECE_BYTES


def test_one_that_does_not_keep_it_asks_for_every_page_again():
    faults, _ = run()
    assert faults > 100
