"""The schema refuses, and what it lets through comes back from Parquet as it went in."""

import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdmf_ops.detector import Verdict
from mdmf_ops.schema import SCHEMA, VERDICTS, SchemaError, to_table


@pytest.fixture
def row():
    return {
        **dict.fromkeys(SCHEMA.names),
        "row_id": "r",
        "run_id": "run",
        "scanned_at": datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.timezone.utc),
        "image_uri": "/a.jpg",
        "status": "scored",
        "mmd2": -0.25,
        "p_value": 0.5,
        "tiles": [{"top_px": 0, "left_px": 8, "height_px": 64, "width_px": 96}],
        "patch_evidence": np.array([-0.5, 0.0], np.float32),
        "alpha": 0.01,
        "detector_id": "d",
        "backbone": "micro",
        "signature_sha256": "s",
        "bank_sha256": "b",
        "schema_version": "1.0",
        "attributes": [("item", "7")],
    }


def test_round_trip_through_parquet(row, tmp_path):
    pq.write_table(to_table([row]), tmp_path / "a.parquet")
    [back] = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert back.pop("patch_evidence") == [-0.5, 0.0]
    row.pop("patch_evidence")
    assert back.pop("alpha") == pytest.approx(row.pop("alpha"))
    assert back == row


def test_missing_field_is_refused(row):
    del row["jpeg_quality"]
    with pytest.raises(SchemaError, match=r"/a\.jpg: missing fields \['jpeg_quality'\]"):
        to_table([row])


def test_extra_field_is_refused(row):
    row["colour"] = "red"
    with pytest.raises(SchemaError, match=r"/a\.jpg: .*extra fields \['colour'\]"):
        to_table([row])


@pytest.mark.parametrize("name", [field.name for field in SCHEMA if not field.nullable])
def test_null_is_refused_where_a_value_must_be(row, name):
    row[name] = None
    with pytest.raises(SchemaError, match=f"{name} is null|None"):
        to_table([row])


@pytest.mark.parametrize("name", ["mmd2", "p_value", "alpha"])
def test_nan_is_refused(row, name):
    row[name] = float("nan")
    with pytest.raises(SchemaError, match=f"{name} is NaN"):
        to_table([row])


@pytest.mark.parametrize(("name", "value"), [("width_px", "wide"), ("jpeg_quality", 1 << 20), ("image_uri", 7)])
def test_wrong_type_is_refused(row, name, value):
    row[name] = value
    with pytest.raises(SchemaError):
        to_table([row])


def test_the_verdicts_of_the_schema_are_the_detectors():
    assert tuple(verdict.value for verdict in Verdict) == VERDICTS


def test_every_field_is_described():
    assert all(field.metadata[b"description"] for field in SCHEMA)


def test_no_rows_make_an_empty_table_of_the_schema():
    assert to_table([]).schema == SCHEMA
