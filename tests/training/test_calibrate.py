"""Strata of calibration scores: none is too small, and in each a p-value is that of the hardest source."""

import io
import shutil

import numpy as np
import pytest
from conftest import encode, photo
from PIL import Image

import model_assets
from mdmf_ops.detector import Detector
from mdmf_ops.training.augment import evaluation_chain
from mdmf_ops.training.calibrate import SEED, calibrate, stratify
from mdmf_ops.training.data import LabelledImage


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1200, 1400, 1600), [(0, 1200), (64, 1400), (256, 1600)]),
        ((1200, 1400, 999), [(0, 1200), (64, 2399)]),
        ((10, 1400, 1600), [(0, 1410), (256, 1600)]),
        ((1200, 10, 1600), [(0, 1210), (256, 1600)]),
        ((10, 20, 30), [(0, 60)]),
        ((0, 0, 900), [(0, 900)]),
    ],
)
def test_a_stratum_of_few_scores_joins_its_neighbour(counts, expected):
    patches = np.repeat([4, 100, 1000], counts)
    calibration = stratify("own", np.arange(len(patches)), patches, np.full(len(patches), "web"))
    assert [stratum.min_patches for stratum in calibration.strata] == [least for least, _ in expected]
    assert [s.calibration_id for s in calibration.strata] == [f"own-from{least}-n{n}" for least, n in expected]


def of_sources(*sources):
    """Scores and names of sources, each given by its scores, shuffled."""
    scores, names = np.concatenate(sources), np.repeat(np.arange(len(sources)).astype(str), [len(s) for s in sources])
    order = np.random.default_rng(9).permutation(len(scores))
    return scores[order], names[order]


@pytest.mark.parametrize("sources", [1, 2, 5, 10])
def test_a_p_value_is_the_largest_of_those_among_each_source(sources):
    rng = np.random.default_rng(sources)
    # Wider ones too, so that other sources are the hardest at high scores than at low ones.
    own = [rng.normal(rng.normal(), rng.uniform(0.3, 2), int(rng.integers(200, 3000))) for _ in range(sources)]
    scores, names = of_sources(*own)
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    for score in np.linspace(-3, 5, 33):
        assert stratum.p_value(score) == pytest.approx(max((each >= score).mean() for each in own), abs=0.005)


def test_how_many_images_a_source_has_does_not_matter():
    rng = np.random.default_rng(0)
    few, many, easy = rng.normal(2, 1, 400), rng.normal(2, 1, 20_000), rng.normal(0, 1, 20_000)
    p_values = []
    for hard in (few, many):
        scores, names = of_sources(hard, easy)
        [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
        p_values.append(stratum.p_value(3.5))
    np.testing.assert_allclose(p_values, 0.067, atol=0.03)


def test_alpha_holds_for_one_source_that_is_far_harder_than_all_others():
    rng = np.random.default_rng(1)
    scores, names = of_sources(*(rng.normal(mean, 1, 2000) for mean in (0, 0, 0, 0, 0, 0, 4)))
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    flagged = [np.mean([stratum.p_value(score) <= 0.05 for score in rng.normal(mean, 1, 4000)]) for mean in (0, 4)]
    assert flagged[0] < 0.001 and flagged[1] == pytest.approx(0.05, abs=0.012)


def test_alpha_holds_for_a_source_of_few_images():
    rng = np.random.default_rng(3)
    flagged = []
    for _ in range(300):
        calibration, new = rng.normal(0, 1, 60), rng.normal(0, 1, 40)
        [stratum] = stratify("own", calibration, np.full(60, 9), np.full(60, "small")).strata
        flagged += [stratum.p_value(score) <= 0.05 for score in new]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("handfuls", "share"), [(1, 3 / 63), (3, 9 / 69)])
def test_a_handful_of_high_scores_is_no_source_of_its_own(handfuls, share):
    rng = np.random.default_rng(2)
    own = [rng.normal(0, 1, 3000), rng.normal(0, 1, 60), *[np.full(3, 9.0)] * handfuls]
    scores, names = of_sources(*own)
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    assert stratum.p_value(5) == pytest.approx(
        share, abs=0.01
    )  # among the smallest of the others, with which they count


def test_few_scores_of_every_source_count_as_one_source():
    scores, names = of_sources(np.arange(5.0), np.arange(5.0, 10.0))
    [stratum] = stratify("own", scores, np.full(10, 9), names).strata
    assert stratum.p_value(7) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("sizes", [(30, 300), (3, 60, 300), (20, 20, 20, 300), (20, 20)])
def test_after_two_chains_a_p_value_is_the_larger_of_those_after_each(sizes):
    rng = np.random.default_rng(sum(sizes))
    sources = np.repeat(np.arange(len(sizes)).astype(str), sizes)
    scores = rng.normal(sources.astype(int), 1, (2, len(sources)))
    scores[1] += (sources == "0") * 2 - 0.5
    patches = np.full(scores.shape, 9)
    [both] = stratify("own", scores, patches, sources).strata
    alone = [stratify("own", *row, sources).strata[0] for row in zip(scores, patches, strict=True)]
    for score in np.linspace(-3, 6, 33):
        assert both.p_value(score) == max(each.p_value(score) for each in alone)


@pytest.mark.parametrize(("images", "least"), [(30, 1 / 101), (450, 1 / 451), (20_000, 1 / 1001)])
def test_no_p_value_is_finer_than_the_images_of_the_largest_source_tell(images, least):
    scores, names = of_sources(np.arange(60.0), np.arange(float(images)))
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    assert stratum.p_value(1e6) == stratum.smallest_p_value == pytest.approx(least)


def test_alpha_holds_for_the_images_of_an_archive_as_they_are_and_after_the_chain(tmp_path):
    shutil.copytree(model_assets.embedded(), tmp_path / "detector")
    # Noisy ones, which the chain makes smooth: by its scores alone, too much of what a scan finds would lie high.
    noise = np.random.default_rng(5).normal(0, 25, (120, 128, 128, 3))
    found = [encode((photo(i, 128, 128) + each).clip(0, 255).astype(np.uint8), "PNG") for i, each in enumerate(noise)]
    images = [LabelledImage(tmp_path / f"{i}.png", False, "archive") for i in range(len(found))]
    for image, content in zip(images, found, strict=True):
        image.path.write_bytes(content)
    calibrate(tmp_path / "detector", images, tmp_path / "work", lambda *_: None, held_out=True)
    detector = Detector.load(tmp_path / "detector", device="cpu")
    pictures = [Image.open(io.BytesIO(content)) for content in found]
    after = [evaluation_chain(each, np.random.default_rng([SEED, 0, i])) for i, each in enumerate(pictures)]
    for contents in (found, [encode(np.asarray(each), "PNG") for each in after]):
        p_values = np.array([score.p_value for score in detector.score(contents)])
        # Features are kept as float16: a score or two may change places.
        assert all((p_values <= alpha).mean() <= alpha + 0.02 for alpha in np.arange(0.01, 1, 0.01))
