"""Scans as the tests run them, and their rows as a reader sees them."""

import json
from pathlib import Path
from typing import Any

import duckdb

from pipelines import rescan


def scan(source: Path, output: Path, **options) -> dict[str, Any]:
    """Runs a rescan, in this process if the options name no other runner; returns its manifest."""
    options = {"run_id": "run", "device": "cpu", "runner": "FnApiRunner"} | options
    options = rescan.RescanOptions([], input=[str(source)], output=str(output), **options)
    run = rescan.prepare(options)
    rescan.launch(run, options).wait_until_finish()
    return json.loads(Path(run.manifest_path).read_text())


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Every row of the dataset as DuckDB reads it, by URI, less its clocks: midnight may be between two scans."""
    relation = duckdb.sql(
        "select * exclude (scan_date, scanned_at, decode_us, score_us, declared_us)"
        f" from read_parquet('{output}/**/*.parquet', hive_partitioning = true) order by image_uri, run_id"
    )
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
