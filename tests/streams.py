"""`mdmf stream` as the tests run it: its topics, its flags, and what a reader finds in its output."""

import json
from pathlib import Path

import duckdb
from pubsub import Topic

from mdmf_ops.beam.commit import read_manifests
from mdmf_ops.beam.runs import strays, verify_run

START_S = 300
"""A stream that starts imports torch and Beam: seconds on a machine at rest, and minutes on one that others share."""

EVERY_VERDICT = "likely_ai,uncertain,likely_real"


def topics(name: str) -> tuple[Topic, Topic, Topic]:
    return Topic(f"{name}-uploads"), Topic(f"{name}-alerts"), Topic(f"{name}-errors")


def flags(output: Path | str, uploads: Topic, alerts: Topic, errors: Topic, *more: str) -> list[str]:
    names = ["--subscription", uploads.subscription, "--alert_topic", alerts.path, "--error_topic", errors.path]
    return [*names, "--output", str(output), "--device", "cpu", "--verdicts", EVERY_VERDICT, "--json", *more]


def read_rows(output: Path) -> list[dict]:
    if not list(output.glob("scan_date=*/*.parquet")):
        return []
    relation = duckdb.sql(f"select * from read_parquet('{output}/scan_date=*/*.parquet', hive_partitioning = true)")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def metrics_of(printed: str) -> dict:
    return json.loads(printed[printed.index("{\n") :])


def check_dataset(output: Path) -> None:
    """Every file is listed by a manifest and is what it says."""
    assert strays(str(output)) == []
    for manifest in read_manifests(str(output)):
        assert verify_run(str(output), manifest) == []
