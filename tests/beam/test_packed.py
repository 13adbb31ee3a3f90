"""Packed rows come back as they were, and are as small as a run's memory counts on."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_row

from mdmf_ops.beam.packed import pack, unpack
from mdmf_ops.schema import SchemaError, to_table


def scored_row(number: int) -> dict:
    """A row as large as that of an image of 400 px, with values of its own where a real one has them."""
    rng = np.random.default_rng(number)
    return make_row(f"/photos/{rng.integers(1 << 40):020}.jpg") | {
        "row_id": rng.bytes(32).hex(),
        "image_sha256": rng.bytes(32).hex(),
        "image_bytes": int(rng.integers(1 << 20)),
        "score_us": int(rng.integers(1 << 16)),
        "mmd2": float(np.float32(rng.normal())),
        "tiles": [{"top_px": 0, "left_px": number % 8, "height_px": 384, "width_px": 288}],
        "patch_evidence": rng.normal(size=108).astype(np.float32).tolist(),
        "attributes": [("item", str(number))],
    }


ROWS = [scored_row(number) for number in range(250)]


def test_rows_come_back_sorted_and_as_they_were():
    rows = [*ROWS, make_row("/é", "failed"), make_row("/\U0001f4f7"), make_row("/\uffff")]
    random.Random(0).shuffle(rows)
    table = unpack([pack(rows[:1]), pack(rows[1:100]), pack(rows[100:])])
    table.validate(full=True)
    assert table.equals(to_table(sorted(rows, key=lambda row: row["image_uri"])), check_metadata=True)


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(SchemaError, match="run_id is null"):
        pack([*ROWS, make_row("/d") | {"run_id": None}])


@pytest.mark.parametrize(("rows", "most_bytes"), [(250, 600), (32, 700), (1, 1700)])
def test_a_packed_row_is_small(rows, most_bytes):
    # Of evidence, which does not compress, there are 432 bytes.
    assert len(pack(ROWS[:rows])) / rows < most_bytes


_WRITE = """
import sys
from pathlib import Path
from mdmf_ops.beam.packed import pack
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.write import _write
from test_packed import ROWS

def held_bytes(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])

copies, output = int(sys.argv[1]), sys.argv[2]
packed = [pack(row | {"image_uri": f"/{i:03}{row['image_uri']}"} for row in ROWS) for i in range(copies)]
_write((0, packed[:1]), Run(f"{output}/first", "r1", "2026-01-02", ""), [], None)  # imports
Path("/proc/self/clear_refs").write_text("5")
before = held_bytes("VmRSS")
_write((0, packed), Run(output, "r1", "2026-01-02", ""), [], None)
print((held_bytes("VmHWM") - before) / (copies * len(ROWS)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is set back in /proc: Linux")
def test_writing_takes_little_memory_for_a_row(tmp_path):
    command = [sys.executable, "-c", _WRITE, "40", str(tmp_path)]
    path = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'beam'}"
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": path})
    # 3.4 kB; sorted as dicts they took 14 kB.
    assert float(result.stdout) < 6000
