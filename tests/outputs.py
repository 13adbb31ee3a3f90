"""Outputs of rows that nobody scored: what pages and explanations are made of, without a detector."""

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_row

from mdmf_ops.beam import Run
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard

MORNING = datetime.datetime(2026, 1, 2, 8, tzinfo=datetime.timezone.utc)


def scored_row(uri: str, p_value: float, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A row of a scored image of 256 x 192 px, with two tiles of 3 x 4 patches of 32 px and random evidence."""
    evidence = np.random.default_rng(seed).normal(0.3, 0.3, 24).astype(np.float32)
    verdict = "likely_ai" if p_value <= 0.01 else "uncertain" if p_value <= 0.1 else "likely_real"
    tiles = [{"top_px": 96 * i, "left_px": 128 * i, "height_px": 96, "width_px": 128} for i in range(2)]
    return {
        **make_row(uri),
        **{"row_id": f"{seed:064x}", "scanned_at": MORNING, "image_bytes": 1000, "image_sha256": f"{seed:064x}"},
        **{"image_format": "JPEG", "width_px": 256, "height_px": 192, "jpeg_quality": 80},
        **{"mmd2": float(evidence.mean(dtype=float)), "p_value": p_value, "verdict": verdict, "calibration_id": "c"},
        **{"grid_rows": 3, "grid_cols": 4, "patch_px": 32, "tiles": tiles, "patch_evidence": evidence},
        **fields,
    }


def failed_row(uri: str, code: str = "corrupt", message: str = "it is damaged") -> dict[str, Any]:
    """A row of an image that could not be scored."""
    fields = {"row_id": f"failed {uri}", "scanned_at": MORNING, "error_code": code, "error_message": message}
    return make_row(uri, "failed") | fields


def write_output(
    output: Path | str,
    rows: Iterable[Mapping[str, Any]],
    run_id: str = "r1",
    started_at: datetime.datetime = MORNING,
    **recorded: Any,
) -> str:
    """Commits rows as a run, scored when it started; returns the output."""
    run = Run(str(output), run_id, f"{started_at:%Y-%m-%d}", started_at.isoformat())
    rows = [{**row, "run_id": run_id, "scanned_at": started_at} for row in rows]
    commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions(recorded=recorded))
    return str(output)
