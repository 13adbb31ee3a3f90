"""How a window's images were distributed, so that an analyst sees the input change before the false positives do.

One small Parquet file for each window and pane, beside the dataset: `_drift/scan_date=YYYY-MM-DD/NAME.parquet`. A row
says how one measure of the images of one detector and format was distributed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

QUANTILES = {f"q{percent:02d}": percent / 100 for percent in (1, 5, 25, 50, 75, 95, 99)}
"""Of each measure, by the name of their column."""

DRIFT_SCHEMA = pa.schema(
    [
        pa.field("stream_id", pa.string(), nullable=False),
        pa.field("window_start", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("window_end", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("pane", pa.string(), nullable=False),
        pa.field("detector_id", pa.string(), nullable=False),
        pa.field("image_format", pa.string(), metadata={"description": "null: could not be decoded"}),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False, metadata={"description": "that have the measure"}),
        pa.field("mean", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in QUANTILES),
    ],
    metadata={"description": "quantiles of each measure over the images of a window, by detector and format"},
)

Sample = dict[tuple[str, str | None, str], np.ndarray]
"""Values, (n,) float32, by detector id, image format and measure: 4 bytes a value, so that quantiles are exact."""


def _measures(row: Mapping[str, Any]) -> dict[str, float | None]:
    scored = row["status"] == "scored"
    return {
        "failed": float(not scored),
        "likely_ai": float(row["verdict"] == "likely_ai") if scored else None,
        "mmd2": row["mmd2"],
        "p_value": row["p_value"],
        "short_side_px": min(row["width_px"], row["height_px"]) if scored else None,
        "jpeg_quality": row["jpeg_quality"],
        "image_bytes": row["image_bytes"],
    }


def sample(rows: Iterable[Mapping[str, Any]]) -> Sample:
    """The measures of rows."""
    found: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        for measure, value in _measures(row).items():
            if value is not None:
                found[row["detector_id"], row["image_format"], measure].append(value)
    return {key: np.asarray(values, np.float32) for key, values in found.items()}


def summarise(samples: Iterable[Sample], of: Mapping[str, Any]) -> pa.Table:
    """Quantiles over several samples, as a table of `DRIFT_SCHEMA`.

    Args:
        of: stream_id, window_start, window_end (aware) and pane, the same in every row.
    """
    together: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for one in samples:
        for key, values in one.items():
            together[key].append(values)
    rows = []
    for (detector_id, image_format, measure), parts in sorted(together.items(), key=lambda item: str(item[0])):
        values = np.concatenate(parts).astype(np.float64)
        quantiles = np.quantile(values, list(QUANTILES.values()))
        rows.append(
            {
                **of,
                "detector_id": detector_id,
                "image_format": image_format,
                "measure": measure,
                "images": values.size,
                "mean": values.mean(),
                **dict(zip(QUANTILES, quantiles, strict=True)),
            }
        )
    return pa.Table.from_pylist(rows, schema=DRIFT_SCHEMA)
