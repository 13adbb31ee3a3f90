"""Strata of calibration scores: none is too small, and in each every source counts alike."""

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


def test_every_source_counts_alike_however_many_images_it_has():
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(0, 1, 3000), rng.normal(5, 1, 50)]
    [stratum] = stratify("own", scores, np.full(3050, 9), np.repeat(["large", "small"], [3000, 50])).strata
    expected = [np.mean([(own >= score).mean() for own in (scores[:3000], scores[3000:])]) for score in (0, 2, 5)]
    found = [stratum.p_value(score) for score in (0, 2, 5)]
    np.testing.assert_allclose(found, expected, atol=0.02)
