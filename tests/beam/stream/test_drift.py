"""Quantiles of a window, computed another way."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from mdmf_ops.beam.stream.drift import DRIFT_SCHEMA, sample, summarise

OF = {
    "stream_id": "stream-x",
    "window_start": np.datetime64("2026-01-02T00:00").item().replace(tzinfo=None),
    "window_end": np.datetime64("2026-01-02T00:05").item().replace(tzinfo=None),
    "pane": "ontime0",
}


def row(rng, failed: bool = False) -> dict:
    scored = {
        "status": "scored",
        "verdict": str(rng.choice(["likely_ai", "likely_real"])),
        "mmd2": float(rng.normal()),
        "p_value": float(rng.uniform(0.001, 1)),
        "width_px": int(rng.integers(64, 5000)),
        "height_px": int(rng.integers(64, 5000)),
        "jpeg_quality": int(rng.integers(1, 101)),
        "image_format": str(rng.choice(["JPEG", "WEBP"])),
    }
    one = dict.fromkeys(scored) | {"status": "failed"} if failed else scored
    return one | {"image_bytes": int(rng.integers(100, 10**6)), "detector_id": str(rng.choice(["one", "two"]))}


def test_quantiles_of_shards_together_are_those_of_all_their_rows():
    rng = np.random.default_rng(0)
    rows = [row(rng, failed=i % 7 == 0) for i in range(500)]
    table = summarise([sample(rows[:100]), sample(rows[100:]), sample([])], OF)
    assert table.schema == DRIFT_SCHEMA
    everything = pa.Table.from_pylist(rows)  # noqa: F841  # DuckDB finds it by name
    expected = duckdb.sql(
        "select detector_id, image_format, count(mmd2), avg(mmd2), quantile_cont(mmd2, 0.05), quantile_cont(mmd2, 0.5)"
        " from everything where status = 'scored' group by all order by 1, 2"
    ).fetchall()
    found = [r for r in table.to_pylist() if r["measure"] == "mmd2"]
    assert len(found) == len(expected) == 4
    for got, want in zip(sorted(found, key=lambda r: (r["detector_id"], r["image_format"])), expected, strict=True):
        assert (got["detector_id"], got["image_format"], got["images"]) == want[:3]
        assert (got["mean"], got["q05"], got["q50"]) == pytest.approx(want[3:], rel=1e-5)


def test_failures_and_verdicts_are_shares():
    rng = np.random.default_rng(1)
    rows = [row(rng) | {"image_format": "PNG", "detector_id": "one", "verdict": v} for v in ("likely_ai", "uncertain")]
    rows += [row(rng, failed=True) | {"detector_id": "one"}]
    found = {(r["image_format"], r["measure"]): r for r in summarise([sample(rows)], OF).to_pylist()}
    assert found["PNG", "likely_ai"]["mean"] == 0.5
    assert found["PNG", "failed"]["mean"] == 0
    assert (found[None, "failed"]["mean"], found[None, "failed"]["images"]) == (1, 1)
    assert (None, "mmd2") not in found


def test_no_rows_are_an_empty_table():
    assert summarise([], OF).num_rows == 0
