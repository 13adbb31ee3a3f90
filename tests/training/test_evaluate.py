"""The metrics against their definitions, counted pair by pair."""

import numpy as np
import pytest

from mdmf_ops.detector import Calibration
from mdmf_ops.training.evaluate import GeneratorResult, Results, compare, false_positives, stratified_p_values


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(0, 1, 60).round(1), rng.normal(1, 1, 40).round(1)
    pairs = [(g > r) + (g == r) / 2 for g in generated for r in real]
    assert compare("g", real, generated).auroc == pytest.approx(np.mean(pairs))


def test_average_precision_is_the_mean_precision_at_each_generated_image():
    rng = np.random.default_rng(1)
    real, generated = rng.normal(0, 1, 50), rng.normal(1, 1, 30)
    precisions = [(generated >= g).sum() / ((generated >= g).sum() + (real >= g).sum()) for g in generated]
    assert compare("g", real, generated).average_precision == pytest.approx(np.mean(precisions))


def test_tpr_is_taken_where_no_more_real_images_are_flagged_than_allowed():
    rng = np.random.default_rng(2)
    real, generated = rng.normal(0, 1, 200), rng.normal(2, 1, 50)
    result = compare("g", real, generated)
    for alpha, tpr in ((0.01, result.tpr_at_1), (0.05, result.tpr_at_5)):
        allowed = int(alpha * len(real))
        threshold = np.sort(real)[::-1][allowed]  # this one must not be flagged any more
        assert tpr == pytest.approx((generated > threshold).mean())


def test_flag_rates_count_p_values_at_or_under_alpha():
    calibration = Calibration.of("c", np.arange(99))
    # p = (1 + #{>= score}) / 100: .01 over all of them, .05 with four at or over it, .06 with five.
    p_values = stratified_p_values(calibration, np.array([200.0, 94.5, 93.5, 10.0]), np.array([9, 9, 9, 9]))
    result = false_positives("s", p_values)
    assert (result.fpr_at_1, result.fpr_at_5) == (0.25, 0.5)


def test_every_generator_counts_once_in_the_mean():
    results = Results(
        [GeneratorResult("a", 1000, 0.9, 0.8, 0.7, 0.6), GeneratorResult("b", 10, 0.5, 0.4, 0.3, 0.2)], []
    )
    mean = results.means()
    assert (mean.images, mean.auroc, mean.average_precision) == (1010, pytest.approx(0.7), pytest.approx(0.6))
    assert (mean.tpr_at_1, mean.tpr_at_5) == (pytest.approx(0.5), pytest.approx(0.4))
