"""Messages to scored rows: one for each, in its own window, in batches that form across bundles."""

import json
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.coders import PickleCoder
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import util
from apache_beam.transforms.window import TimestampedValue
from conftest import BROKEN, encode, photo
from declared import anchor, signed

from mdmf_ops.beam import FetchImages, Run
from mdmf_ops.beam.image import Image, ImageRef, Message
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.beam.stream.live import SKIPPED, ReadMessages, ScoreMessages, _LiveHandler
from mdmf_ops.beam.stream.windows import Windows
from mdmf_ops.detector import Detector, ErrorCode, ImageError

START_S = 1767312000
STREAM = Run("/out", "stream-x", "2026-01-02", "2026-01-02T00:00:00+00:00")


def message(i: int, data: bytes, second: float, **attributes: str) -> TimestampedValue:
    return TimestampedValue(PubsubMessage(data, attributes or {"item": str(i)}, message_id=str(i)), START_S + second)


@pytest.mark.parametrize("batch_wait_s", [None, 0.1])
def test_every_message_is_one_row_in_the_window_of_its_publication(monkeypatch, batch_wait_s):
    batches = []
    score = _LiveHandler.run_inference

    def score_and_count(self, batch, *more):
        batches.append(len(batch))
        return score(self, batch, *more)

    monkeypatch.setattr(_LiveHandler, "run_inference", score_and_count)
    # Images wait under a key of their process. A service's worker keeps it; the local runner forgets it with a bundle.
    key = util.SharedKey()
    monkeypatch.setattr(util, "load_shared_key", lambda: key)
    detector = Detector.load(device="cpu")
    good = [encode(photo(i, 64, 64)) for i in range(24)]
    sent = [message(i, data, 2 * i) for i, data in enumerate(good)]  # 0-46 s: windows of 0, 20 and 40 s
    sent += [message(90, BROKEN["text.jpg"], 41), message(91, json.dumps({"uri": "/etc/passwd"}).encode(), 42)]
    skip = {"eventType": "OBJECT_DELETE", "bucketId": "b", "objectId": "o", "payloadFormat": "NONE"}
    sent.append(message(99, b"", 43, **skip))
    story = test_stream.TestStream(coder=PickleCoder()).advance_watermark_to(START_S)
    for start in range(0, len(sent), 3):
        story.add_elements(sent[start : start + 3])
    story.advance_processing_time(int(time.time()) + 60).advance_watermark_to_infinity()

    def told(scored, window=beam.DoFn.WindowParam):
        row = scored.row
        verdict_or_code = row["verdict"] or row["error_code"]
        return scored.ref.message.message_id, float(window.start) - START_S, verdict_or_code, row["detector_id"]

    with beam.Pipeline(options=PipelineOptions([], streaming=True, runner="BundleBasedDirectRunner")) as p:
        read = p | story | ReadMessages()
        assert_that(read[SKIPPED], equal_to(["99"]), label="skipped")
        scored = (
            read.refs
            | Windows(20).into()
            | FetchImages()
            | ScoreMessages(STREAM, DetectorOptions(device="cpu"), batch_wait_s)
            | "Told" >> beam.Map(told)
            | "All" >> beam.WindowInto(beam.window.GlobalWindows())
        )
        scores = detector.score(good)
        expected = [(str(i), i // 10 * 20.0, score.verdict.value) for i, score in enumerate(scores)]
        expected += [("90", 40.0, "unsupported_format"), ("91", 40.0, "bad_uri")]
        assert_that(scored, equal_to([(*row, detector.assets.detector_id) for row in expected]), label="scored")
    assert sum(batches) == 26
    # Ten, ten and six images come in bundles of three; waiting makes one batch of each window.
    assert sorted(batches) == [6, 10, 10] if batch_wait_s else max(batches) <= 3, batches


def test_images_that_are_scored_side_by_side_have_the_rows_of_one_after_the_other():
    contents = [encode(photo(i, 64 + 32 * (i % 3), 96)) for i in range(12)] + [BROKEN["half.jpg"], BROKEN["text.jpg"]]
    images = [
        Image(ImageRef(str(i), message=Message(b"", {}, str(i), 0)), content) for i, content in enumerate(contents)
    ]
    images.append(
        Image(ImageRef("gone", message=Message(b"", {}, "gone", 0)), None, ImageError(ErrorCode.NOT_FOUND, "x"))
    )
    clocks = dict.fromkeys(("scanned_at", "decode_us", "score_us", "declared_us"))

    def rows(threads: int) -> list[dict]:
        handler = _LiveHandler(STREAM, DetectorOptions(device="cpu", threads=threads), None)
        found = handler.run_inference(images, handler.load_model())
        assert [scored.ref for scored in found] == [image.ref for image in images]
        return [
            scored.row
            | clocks
            | {"patch_evidence": scored.row["patch_evidence"] is None or scored.row["patch_evidence"].tolist()}
            for scored in found
        ]

    assert rows(4) == rows(1)
    assert len({thread.name for thread in threading.enumerate() if thread.name.startswith("mdmf-score")}) > 1


@pytest.mark.parametrize(("anchors", "expected"), [(anchor, "trusted"), (lambda: None, "valid")])
def test_whose_signatures_are_trusted_is_said_to_a_stream_too(anchors, expected):
    handler = _LiveHandler(STREAM, DetectorOptions(device="cpu"), None, anchors())
    image = Image(ImageRef("gs://b/o", message=Message(b"", {}, "1", 0)), signed("JPEG"))
    [scored] = handler.run_inference([image], handler.load_model())
    assert scored.row["c2pa_signature"] == expected
