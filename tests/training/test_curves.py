"""Treatments against their definitions, and curves against figures computed by hand."""

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from mdmf_ops.training.augment import evaluation_chain
from mdmf_ops.training.curves import POINTS, Treated, chains, curve_points, subset, treat
from mdmf_ops.training.data import LabelledImage


def rng():
    return np.random.default_rng(7)


@pytest.fixture
def image():
    return Image.fromarray(photo(1, 160, 200))


@pytest.mark.parametrize("chain", chains()[1:], ids=repr)
def test_a_treatment_follows_the_chain_with_the_same_draws(image, chain):
    draws = rng()
    expected = treat(evaluation_chain(image, draws), chain.treatment, chain.level, draws)
    np.testing.assert_array_equal(np.asarray(chain(image, rng())), np.asarray(expected))
    assert min(expected.size) >= 64


def test_noise_has_the_deviation_that_was_asked_for():
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    for level in (0.02, 0.1):
        assert np.asarray(treat(grey, "noise, sigma of full scale", level, rng())).std() == pytest.approx(
            255 * level, rel=0.02
        )


def test_blur_is_a_gaussian_of_that_sigma():
    step = np.zeros((64, 256, 3), np.uint8)
    step[:, 128:] = 255
    blurred = np.asarray(treat(Image.fromarray(step), "blur, sigma in px", 3.0, rng()), float)[32, :, 0] / 255
    spread = np.diff(blurred) / np.diff(blurred).sum()
    at = np.arange(255) + 0.5
    mean = (spread * at).sum()
    assert ((spread * (at - mean) ** 2).sum()) ** 0.5 == pytest.approx(3, rel=0.1)


def test_resize_and_jpeg_do_what_they_say(image):
    assert treat(image, "resize", 0.5, rng()).size == (100, 80)
    assert treat(image, "resize", 2.0, rng()).size == (400, 320)
    losses = [
        np.abs(np.asarray(treat(image, "JPEG quality", q, rng()), float) - np.asarray(image)).mean()
        for q in POINTS["JPEG quality"]
    ]
    assert losses == sorted(losses)


def test_an_unknown_treatment_is_named(image):
    with pytest.raises(ValueError, match="no treatment 'melt'"):
        treat(image, "melt", 1.0, rng())


def test_points_are_means_over_generators_at_every_level():
    count = len(chains())
    draws = np.random.default_rng(0)
    scores = [
        (name, draws.normal(0, 1, (count, 40)), draws.normal(shift, 1, (count, 30)))
        for name, shift in (("a", 1.0), ("b", 2.0))
    ]
    points = curve_points(scores)
    assert [(p.treatment, p.level) for p in points[1:]] == [(c.treatment, c.level) for c in chains()[1:]]
    assert (points[0].treatment, points[0].level) == ("none", 0)
    for row in (0, 5, count - 1):
        areas = [(own[row][:, None] > real[row][None]).mean() for _name, real, own in scores]
        assert points[row].auroc == pytest.approx(np.mean(areas))
        flagged = [(real[row] > np.quantile(real[0], 0.95)).mean() for _name, real, _own in scores]
        assert points[row].flagged == pytest.approx(np.mean(flagged))
    assert points[0].flagged == pytest.approx(0.05)


def test_a_subset_is_drawn_from_each_source_alike_and_always_the_same(tmp_path):
    images = [LabelledImage(tmp_path / f"{i}", False, "large" if i < 90 else "small") for i in range(100)]
    chosen = subset(images, lambda image: image.path.name != "3", 20)
    assert chosen == subset(images, lambda image: image.path.name != "3", 20)
    assert (sum(i < 90 for i in chosen), sum(i >= 90 for i in chosen)) == (20, 10)
    assert 3 not in chosen


def test_a_treated_chain_is_named_by_what_it_does():
    assert repr(Treated("resize", 0.5)) == "Treated(treatment='resize', level=0.5)"
