"""The same pixels, the same tiles and the same score to the bit: whatever came before, beside, or in which process."""

import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from isolated import decode_isolated
from PIL import Image

from mdmf_ops.detector import Detector, Limits, decode
from mdmf_ops.images.tiles import TileGeometry, tile_image

GEOMETRY = TileGeometry(patch_px=32, max_tile_px=128, max_tiles=4)
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True, "exact": True}}
SIZES = [(64, 64), (96, 64), (65, 127), (300, 200), (128, 513), (600, 520)]


def encoded(seed: int, image_format: str, size: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    pixels = photo(seed, *(size or SIZES[seed % len(SIZES)]))
    Image.fromarray(pixels).save(buffer, image_format, **LOSSLESS.get(image_format, {}))
    return buffer.getvalue()


IMAGES = [encoded(i, ("PNG", "JPEG", "WEBP")[i % 3]) for i in range(8)]
orders = st.lists(st.sampled_from(range(len(IMAGES))), min_size=1, max_size=12)


def same_tiles(found, expected) -> bool:
    return found.plan == expected.plan and np.array_equal(found.tiles, expected.tiles)


@given(st.integers(0, 99), st.integers(64, 300), st.integers(64, 300), st.sampled_from(sorted(LOSSLESS)))
@settings(max_examples=40, deadline=None)
def test_tiles_are_the_pixels_of_the_plan_whatever_the_encoding(seed, height, width, image_format):
    tiled = tile_image(decode(encoded(seed, image_format, (height, width))), GEOMETRY)
    pixels, plan = photo(seed, height, width), tiled.plan
    assert (tiled.width_px, tiled.height_px) == (width, height)
    for tile, (top, left) in zip(tiled.tiles, plan.origins, strict=True):
        inside = pixels[top : top + plan.height_px, left : left + plan.width_px]
        np.testing.assert_array_equal(tile.transpose(1, 2, 0), inside)  # of its full size: none lies outside


@given(orders)
@settings(max_examples=25, deadline=None)
def test_tiles_do_not_depend_on_the_process_or_on_what_it_decoded_before(order):
    for i in order:
        expected = tile_image(decode(IMAGES[i]), GEOMETRY)
        assert same_tiles(decode_isolated(IMAGES[i], GEOMETRY, Limits()), expected)


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


def fingerprints(results) -> list[tuple[str, str]]:
    """Every bit of each score."""
    return [(score.mmd2.hex(), hashlib.sha256(score.evidence.tobytes()).hexdigest()) for score in results]


@pytest.fixture(scope="module")
def alone(detector):
    return [fingerprints(detector.score([content]))[0] for content in IMAGES]


@given(order=orders)
@settings(max_examples=8, deadline=None)
def test_scores_do_not_depend_on_the_batch_or_on_the_images_before(detector, alone, order):
    assert fingerprints(detector.score([IMAGES[i] for i in order])) == [alone[i] for i in order]


SECOND = """
import json, torch
torch.set_num_threads(1)
from detector.test_determinism import IMAGES, fingerprints
from mdmf_ops.detector import Detector
print(json.dumps(fingerprints(Detector.load(device="cpu").score(IMAGES[::-1]))))
"""


def test_scores_of_a_second_process_are_the_same_bits(alone):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", SECOND], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert [tuple(found) for found in json.loads(done.stdout)] == alone[::-1]
