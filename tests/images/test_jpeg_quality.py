"""The quality that a JPEG was saved with, read off its tables."""

import pytest
from conftest import encode
from formats import GREY, RGB, save
from PIL import JpegPresets

from mdmf_ops.detector import decode
from mdmf_ops.images.decode import estimate_jpeg_quality


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_quality_of_a_jpeg_is_found(quality):
    subsampling = quality % 3
    content = encode(RGB, quality=quality, subsampling=subsampling, progressive=quality % 2 == 0)
    assert decode(content).jpeg_quality == quality


def test_the_quality_of_a_grey_jpeg_is_found():
    assert decode(save(GREY, "jpeg")).jpeg_quality == 95


# At the top of the scale every table is near: Photoshop's web_maximum is 1 nearly everywhere, as that of 99 is.
@pytest.mark.parametrize("preset", sorted(JpegPresets.presets.keys() - {"web_maximum"}))
def test_tables_of_another_encoder_have_no_quality(preset):
    content = encode(RGB, qtables=preset)
    assert decode(content).jpeg_quality is None


@pytest.mark.parametrize("tables", [{}, {1: [1] * 64}, {0: []}, {0: [16] * 63}, {0: list(range(1, 65))}])
def test_odd_tables_have_no_quality(tables):
    assert estimate_jpeg_quality(tables) is None
