"""Cores: those this process may use, on systems that can tell and on those that cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdmf_ops import cores
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
    monkeypatch.setattr(cores, "_LIMIT", Path("/nowhere"))
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("200000 100000", 2), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 64), ("max 100000", 64)],
)
def test_a_container_that_may_take_a_part_of_the_cores_counts_that(monkeypatch, tmp_path, limit, expected):
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(cores, "_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(64), raising=False)
    assert usable_cores() == expected
