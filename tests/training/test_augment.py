"""The random chain: from a seed alone, and blind to the class."""

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from mdmf_ops.training import augment

CHAINS = ("training_chain", "evaluation_chain")


def run(chain, image, seed):
    return getattr(augment, chain)(image, np.random.default_rng(seed))


@pytest.mark.parametrize("chain", CHAINS)
def test_the_seed_alone_decides(chain):
    image = Image.fromarray(photo(1, 240, 320))
    first, again, other = (np.asarray(run(chain, image, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("size", [(64, 64), (96, 700), (200, 150), (1200, 900)])
def test_every_image_comes_out_as_rgb_that_tiles_fit_in(chain, size):
    for seed in range(12):
        image = run(chain, Image.fromarray(photo(2, *size)), seed)
        assert image.mode == "RGB"
        assert min(image.size) >= 64
        assert max(image.size) <= 512  # one tile: none that a chain enlarged is cut in two


def test_recode_is_the_codecs_own_loss():
    image = Image.fromarray(photo(3, 96, 96))
    errors = [
        np.abs(np.asarray(augment.recode(image, "JPEG", quality), float) - np.asarray(image)).mean()
        for quality in (100, 75, 30)
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_resize_has_the_scale_that_was_asked_for():
    image = Image.fromarray(photo(4, 400, 300))
    assert augment.resize(image, 0.5, np.random.default_rng(0)).size == (150, 200)
    assert min(augment.resize(image, 0.01, np.random.default_rng(0)).size) == 96
