"""Cores: those this process may use, on systems that can tell and on those that cannot."""

import os
import subprocess
import sys

import pytest

from mdmf_ops.cores import usable_cores

COUNT = "from mdmf_ops.cores import usable_cores; print(usable_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux can bind a process to cores")
def test_cores_that_are_not_allowed_are_not_counted():
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}]); {COUNT}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("told", "expected"), [(6, 6), (None, 1)])
def test_where_bounds_cannot_be_told_every_core_counts(monkeypatch, told, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: told)
    assert usable_cores() == expected
