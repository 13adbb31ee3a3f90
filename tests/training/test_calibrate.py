"""Strata of calibration scores: none is too small, and in each a p-value is that of the hardest sources."""

import numpy as np
import pytest

from mdmf_ops.training.calibrate import stratify


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((600, 700, 800), [(0, 600), (64, 700), (256, 800)]),
        ((600, 700, 10), [(0, 600), (64, 710)]),
        ((10, 700, 800), [(0, 710), (256, 800)]),
        ((600, 10, 800), [(0, 610), (256, 800)]),
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


@pytest.mark.parametrize(("sources", "hardest"), [(1, 1), (2, 1), (5, 1), (6, 2), (9, 2), (12, 3)])
def test_a_p_value_is_the_mean_of_those_of_the_hardest_quarter_of_sources(sources, hardest):
    rng = np.random.default_rng(sources)
    # Wider ones too, so that other sources are the hardest at high scores than at low ones.
    own = [rng.normal(rng.normal(), rng.uniform(0.3, 2), int(rng.integers(200, 3000))) for _ in range(sources)]
    scores, names = of_sources(*own)
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    assert stratum.scores.size == 500 * hardest
    for score in np.linspace(-3, 5, 33):
        p_values = sorted((each >= score).mean() for each in own)
        assert stratum.p_value(score) == pytest.approx(np.mean(p_values[-hardest:]), abs=0.01)


def test_how_many_images_a_source_has_does_not_matter():
    rng = np.random.default_rng(0)
    few, many, easy = rng.normal(2, 1, 400), rng.normal(2, 1, 20_000), rng.normal(0, 1, 20_000)
    p_values = []
    for hard in (few, many):
        scores, names = of_sources(hard, easy)
        [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
        p_values.append(stratum.p_value(3.5))
    np.testing.assert_allclose(p_values, 0.067, atol=0.03)


def test_an_image_of_the_hardest_sources_is_flagged_as_often_as_alpha_says_and_others_less():
    rng = np.random.default_rng(1)
    scores, names = of_sources(*(rng.normal(mean, 1, 2000) for mean in (0, 0, 0, 0, 0, 0, 2, 2)))
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    flagged = [np.mean([stratum.p_value(score) <= 0.05 for score in rng.normal(mean, 1, 4000)]) for mean in (0, 2)]
    assert flagged[0] < 0.01 and flagged[1] == pytest.approx(0.05, abs=0.01)


def test_a_handful_of_high_scores_is_no_source_of_its_own():
    rng = np.random.default_rng(2)
    scores, names = of_sources(rng.normal(0, 1, 3000), *[rng.normal(0, 1, 19)] * 2, np.full(3, 9.0))
    [stratum] = stratify("own", scores, np.full(len(scores), 9), names).strata
    assert stratum.p_value(5) == pytest.approx(3 / 41, abs=0.02)  # of the three that count as one


def test_few_scores_of_every_source_count_as_one_source():
    scores, names = of_sources(np.arange(5.0), np.arange(5.0, 10.0))
    [stratum] = stratify("own", scores, np.full(10, 9), names).strata
    assert stratum.p_value(7) == pytest.approx(0.25, abs=0.06)
