"""What is published: alerts as documented, and failed messages as they came, within the service's limits."""

import dataclasses
import glob
import inspect
import json

import jsonschema
import pytest
from conftest import BROKEN, ROOT, encode, photo
from google.cloud import pubsub_v1

from mdmf_ops.beam import Image, ImageRef, Run
from mdmf_ops.beam.image import Message
from mdmf_ops.beam.score import make_row
from mdmf_ops.beam.stream import alerts
from mdmf_ops.beam.stream.alerts import ALERT_VERSION, _is_chosen, make_alert, make_error
from mdmf_ops.beam.stream.live import Scored
from mdmf_ops.beam.stream.messages import parse_message
from mdmf_ops.beam.stream.windows import Windows
from mdmf_ops.detector import Detector, ErrorCode, ImageError

STREAM = Run("gs://bucket/scores", "stream-x", "2026-01-02", "2026-01-02T00:00:00+00:00")
PUBLISHED_US = 1767312301_250000  # 2026-01-02T00:05:01.25Z


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


def score(detector, data: bytes, /, **attributes: str) -> Scored:
    ref = parse_message(Message(data, attributes, "id-1", PUBLISHED_US))
    result = ref.error or detector.score([data])[0]
    return Scored(ref, make_row(Image(ref, data), result, detector, STREAM))


def test_an_alert_is_what_its_schema_documents(detector, tmp_path):
    schema = json.loads((ROOT / "docs/alert.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"].keys() == set(schema["required"])
    scored = score(detector, encode(photo(1)), item="4711")
    message = make_alert(scored, STREAM, Windows(300))
    alert = json.loads(message.data)
    jsonschema.validate(alert, schema, jsonschema.Draft202012Validator)
    assert alert["attributes"] == {"item": "4711"}
    assert (alert["row_id"], alert["verdict"]) == (scored.row["row_id"], scored.row["verdict"])
    assert alert["published_at"] == "2026-01-02T00:05:01.250+00:00"
    assert alert["rows_at"] == "gs://bucket/scores/scan_date=2026-01-02/stream-x-20260102T000500Z-s00-*"
    named_as_globs = dataclasses.replace(STREAM, output=str(tmp_path / "a[1]*"))
    rows_at = json.loads(make_alert(scored, named_as_globs, Windows(300)).data)["rows_at"]
    file = tmp_path / "a[1]*" / alert["rows_at"].removeprefix("gs://bucket/scores/").replace("*", "7.parquet")
    file.parent.mkdir(parents=True)
    file.touch()
    assert glob.glob(rows_at) == [str(file)]
    assert message.attributes == {
        "mdmf_alert_version": ALERT_VERSION,
        "mdmf_verdict": scored.row["verdict"],
        "mdmf_row_id": scored.row["row_id"],
        "mdmf_detector_id": scored.row["detector_id"],
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(alert | {"more": 1}, schema)


def test_a_failed_image_is_never_an_alert(detector):
    scored = score(detector, BROKEN["text.jpg"])
    assert not _is_chosen(scored, frozenset({"likely_ai", "uncertain", "likely_real"}))


@pytest.mark.parametrize("data", [*BROKEN.values(), b'{"uri": 5}', b"{"])
def test_an_error_message_keeps_bytes_and_attributes_and_says_why(detector, data):
    scored = score(detector, data, item="7")
    message = make_error(scored)
    assert message.data == data
    row = scored.row
    assert message.attributes == {
        "item": "7",
        "mdmf_error_code": row["error_code"],
        "mdmf_error_message": row["error_message"],
        "mdmf_row_id": row["row_id"],
        "mdmf_message_id": "id-1",
    }


def test_an_error_message_is_never_one_that_the_service_refuses(detector):
    """At most 10 MB, 100 attributes, keys of 256 and values of 1,024 bytes, none that starts with goog."""
    error = ImageError(ErrorCode.BAD_MESSAGE, "é" * 300)
    many = {f"key{i:03d}": "é" * 512 for i in range(99)} | {"googclient_x": "1"}
    for data, attributes in (
        (b"x" * 10_000_000, {}),
        (b"", many),
        (b"x" * 9_900_000, many),
        (b"", {"mdmf_row_id": "x"}),
    ):
        message = Message(data, attributes, "id", PUBLISHED_US)
        ref = ImageRef("message:x", attributes=attributes, error=error, message=message)
        row = make_row(Image(ref, None, error), error, detector, STREAM)
        sent = make_error(Scored(ref, row))
        sizes = [(len(key.encode()), len(value.encode())) for key, value in sent.attributes.items()]
        assert len(sizes) <= 100
        assert all(0 < key <= 256 and value <= 1024 for key, value in sizes)
        assert not any(key.startswith("goog") for key in sent.attributes)
        assert len(sent.data) + sum(key + value for key, value in sizes) < 10_000_000
        assert sent.attributes["mdmf_error_code"] == "bad_message"
        assert sent.attributes["mdmf_row_id"] == row["row_id"]
        cut = sent.attributes.get("mdmf_cut", "").split(",")
        assert ("data" in cut) == (sent.data != data)
        assert ("attributes" in cut) == (len(attributes) > 95)


@pytest.mark.parametrize("name", ["topic", "data", "self", "ordering_key", "retry", "timeout"])
def test_an_attribute_that_would_be_an_argument_of_googles_client_is_left_out_and_said_to_be(detector, name):
    sent = make_error(score(detector, b"no image", item="7", **{name: "news"}))
    assert (sent.attributes["item"], sent.attributes["mdmf_cut"], sent.data) == ("7", "attributes", b"no image")
    # As Beam calls it.
    inspect.signature(pubsub_v1.PublisherClient.publish).bind("client", "path", sent.data, **sent.attributes)


def test_every_argument_of_googles_client_is_known():
    arguments = inspect.signature(pubsub_v1.PublisherClient.publish).parameters
    assert {name for name in arguments if name != "attrs"} == alerts._TAKEN
