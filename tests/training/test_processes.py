"""Workers of a training, and what becomes of them."""

import contextlib
import os
import signal
import subprocess
import sys

from conftest import ROOT

from mdmf_ops.cores import usable_cores
from mdmf_ops.training.processes import workers

WAITING = """
import signal
from mdmf_ops.training.processes import workers

with workers(print, "begun") as pool:
    pool.submit(signal.pause)
"""


def test_each_begins_with_what_is_shared(capfd):
    with workers(os.write, 1, b"+") as pool:
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert 1 <= capfd.readouterr().out.count("+") <= usable_cores()


def test_none_outlives_a_process_that_is_killed():
    command = [sys.executable, "-u", "-c", WAITING]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == b"begun\n"
            process.kill()
            # Workers have the pipe, too: it ends with the last of them.
            process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
