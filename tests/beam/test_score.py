"""Images to rows: what the detector says, one row for each image, whatever else is in its batch."""

import hashlib
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from conftest import BROKEN, encode, photo, write_images
from declared import WEB_UI_TEXT, png_with_text

from mdmf_ops.beam import Image, Run, ScoreImages
from mdmf_ops.beam.commit import read_manifest
from mdmf_ops.beam.image import ImageRef
from mdmf_ops.beam.score import make_row
from mdmf_ops.detector import Detector, ErrorCode, ImageError
from mdmf_ops.detector.detector import device_name, pick_device
from mdmf_ops.schema import to_table
from pipelines import rescan

RUN = Run("/out", "test", "2026-01-02", "2026-01-02T00:00:00+00:00")


def good_and_broken():
    contents = {f"/in/{i}.png": encode(photo(i), "PNG") for i in range(5)}
    contents |= {f"/in/{name}": content for name, content in BROKEN.items()}
    images = [Image(ImageRef(uri), content) for uri, content in contents.items()]
    lost = Image(ImageRef("/in/lost.jpg", attributes={"item": "9"}), None, ImageError(ErrorCode.NOT_FOUND, "gone"))
    return [*images, lost]


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


def test_every_image_is_one_row_with_the_detectors_own_result(run_pipeline, detector):
    images = good_and_broken()

    def check(rows):
        by_uri = {row["image_uri"]: row for row in rows}
        assert len(rows) == len(by_uri) == len(images)
        to_table(rows)
        for image in images:
            row = by_uri[image.ref.uri]
            result = image.error or detector.score([image.content])[0]
            if isinstance(result, ImageError):
                assert (row["status"], row["error_code"]) == ("failed", result.code.value)
                assert row["error_message"]
                assert row["mmd2"] is None and row["verdict"] is None and row["patch_evidence"] is None
            else:
                assert (row["status"], row["error_code"], row["mmd2"]) == ("scored", None, result.mmd2)
                np.testing.assert_array_equal(row["patch_evidence"], result.evidence)

    with run_pipeline() as p:
        rows = p | beam.Create(images, reshuffle=False) | ScoreImages(RUN)
        assert_that(rows, check)


def test_a_row_says_how_to_find_and_dispute_it(detector):
    content = encode(photo(1), "PNG")
    image = Image(ImageRef("/in/a.png", generation=17, attributes={"item": "7"}), content)
    row = make_row(image, detector.score([content])[0], detector, RUN)
    manifest = detector.assets.manifest
    assert row["image_sha256"] == hashlib.sha256(content).hexdigest()
    assert (row["image_generation"], row["image_bytes"]) == (17, len(content))
    assert (row["width_px"], row["height_px"], row["image_format"]) == (128, 96, "PNG")
    assert row["attributes"] == [("item", "7")]
    assert row["bank_sha256"] == manifest["files"]["bank.safetensors"]["sha256"]
    assert row["detector_id"] == manifest["detector_id"]
    patches = len(row["tiles"]) * row["grid_rows"] * row["grid_cols"]
    assert len(row["patch_evidence"]) == patches
    assert np.mean(row["patch_evidence"], dtype=np.float64) == pytest.approx(row["mmd2"])


def test_a_row_says_where_and_how_exactly_its_score_was_computed(detector):
    content = encode(photo(1), "PNG")
    image = Image(ImageRef("/in/a.png"), content)
    [score] = detector.score([content])
    row = make_row(image, score, detector, RUN)
    assert (row["device"], row["precision"]) == ("cpu", "float32")
    elsewhere = Detector.load(device="cpu")
    elsewhere.terms = replace(elsewhere.terms, device="cuda Tesla T4", precision="bfloat16")
    row = make_row(image, score, elsewhere, RUN)
    assert (row["device"], row["precision"]) == ("cuda Tesla T4", "bfloat16")
    row = make_row(image, ImageError(ErrorCode.CORRUPT, "bad"), elsewhere, RUN)
    assert (row["device"], row["precision"]) == (None, None)


def test_the_device_that_auto_took_is_a_metric_and_in_the_manifest(tmp_path):
    images = write_images(tmp_path / "in", good=5, broken=2)
    options = rescan.RescanOptions([], input=[str(images)], output=str(tmp_path), runner="FnApiRunner")
    run = rescan.prepare(options)
    result = rescan.launch(run, options)
    result.wait_until_finish()
    device = device_name(pick_device("auto"))
    counts = read_manifest(run)["counts"]
    assert (counts["device"], counts["precision"]) == ({device: 5}, {"float32": 5})
    counters = {m.key.metric.name: m.committed for m in result.metrics().query()["counters"]}
    assert counters[f"images_scored_on_{device.split()[0]}"] == counters["images_scored"] == 5


def test_a_row_says_what_the_file_says_of_itself_and_the_score_does_not_know(detector):
    plain, marked = encode(photo(1), "PNG"), png_with_text(parameters=WEB_UI_TEXT)
    rows = []
    for content in (plain, marked, marked[:-5000], None):
        result = detector.score([content])[0] if content else ImageError(ErrorCode.NOT_FOUND, "gone")
        rows.append(make_row(Image(ImageRef("/in/a.png"), content), result, detector, RUN))
    to_table(rows)
    said = [(row["declared_source"], row["declared_by"], row["declared_software"]) for row in rows]
    generated = ("trainedAlgorithmicMedia", "text", "Stable Diffusion web UI")
    assert said == [(None, None, None), generated, generated, (None, None, None)]
    assert [row["status"] for row in rows] == ["scored", "scored", "failed", "failed"]
    assert [row["declared_us"] is None for row in rows] == [False, False, False, True]
    assert rows[0]["mmd2"] == rows[1]["mmd2"] and rows[0]["verdict"] == rows[1]["verdict"]


@pytest.mark.parametrize("code", ErrorCode)
def test_a_file_that_ended_a_decoder_is_read_no_further(code, detector):
    content = png_with_text(parameters=WEB_UI_TEXT)
    row = make_row(Image(ImageRef("/in/a.png"), content), ImageError(code, "gone"), detector, RUN)
    to_table([row])
    unread = code.value in ("decoder_crashed", "timeout", "out_of_memory")
    assert (row["declared_us"] is None, row["declared_source"] is None) == (unread, unread)
    assert row["image_sha256"] == hashlib.sha256(content).hexdigest()


def test_row_id_is_the_content_under_the_detector(detector):
    content = encode(photo(1), "PNG")
    [result] = detector.score([content])

    def row_id(uri, content, result, generation=None):
        return make_row(Image(ImageRef(uri, generation), content), result, detector, RUN)["row_id"]

    assert row_id("/a.png", content, result) == row_id("/b.png", content, result)
    gone = ImageError(ErrorCode.NOT_FOUND, "gone")
    lost = {row_id("/a.png", None, gone), row_id("/b.png", None, gone), row_id("/a.png", None, gone, 2)}
    assert len(lost) == 3
