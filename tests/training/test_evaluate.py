"""The metrics against their definitions, counted pair by pair."""

import numpy as np
import pytest

from mdmf_ops.detector import Calibration
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.evaluate import Results, left_out_p_values, stratified_p_values
from mdmf_ops.training.folds import Fold
from mdmf_ops.training.metrics import (
    LEVELS,
    FlagRates,
    GeneratorResult,
    auroc,
    clopper_pearson,
    compare,
    flag_rates,
    reliability,
)
from mdmf_ops.training.report import p_value_table


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
    result = flag_rates("s", p_values)
    assert (result.at_1, result.at_5) == (0.25, 0.5)


def test_no_copy_of_an_image_that_is_left_out_makes_its_p_value(tmp_path):
    images, none = [], np.empty((1, 0))
    for source, content in [("web", i) for i in range(40)] + [("phone", i) for i in range(140)]:
        path = tmp_path / f"{source}{content}"
        path.write_text(str(content))  # the first forty of either are the same
        images.append(LabelledImage(path, False, source))
    web = Fold("web", np.arange(40), none, np.full((1, 40), 500.0), none)
    phone = Fold("phone", np.arange(40, 180), none, np.r_[np.full(40, 900.0), np.arange(100)][None], none)
    p_values = left_out_p_values(images, np.full(180, 9), web, [phone])
    assert p_values == pytest.approx(np.full(40, 1 / 101))  # no other image of phone scores as high


def test_every_generator_counts_once_in_the_mean():
    results = Results(
        [GeneratorResult("a", 1000, 0.9, 0.8, 0.7, 0.6), GeneratorResult("b", 10, 0.5, 0.4, 0.3, 0.2)],
        [FlagRates("a", 1000, 0.5, 0.8), FlagRates("b", 10, 0.1, 0.2)],
        [],
        [],
    )
    found = results.mean_found()
    assert (found.images, found.at_1, found.at_5) == (1010, pytest.approx(0.3), pytest.approx(0.5))
    mean = results.means()
    assert (mean.images, mean.auroc, mean.average_precision) == (1010, pytest.approx(0.7), pytest.approx(0.6))
    assert (mean.tpr_at_1, mean.tpr_at_5) == (pytest.approx(0.5), pytest.approx(0.4))


def test_scores_that_are_all_alike_tell_nothing_and_flag_nobody():
    result = compare("g", np.zeros(200), np.zeros(50))
    assert (result.auroc, result.tpr_at_1, result.tpr_at_5) == (0.5, 0.0, 0.0)
    assert result.average_precision == pytest.approx(50 / 250)


def test_ties_between_the_classes_do_not_hide_a_threshold():
    # Every score is of one real and one generated image: at 5 % of real flagged, 5 % of generated are.
    result = compare("g", np.arange(100), np.arange(100))
    assert (result.tpr_at_1, result.tpr_at_5) == (pytest.approx(0.01), pytest.approx(0.05))


@pytest.mark.parametrize(("real", "generated", "missing"), [(0, 3, "real"), (3, 0, "generated")])
def test_a_class_without_images_is_an_error_that_names_the_generator(real, generated, missing):
    with pytest.raises(ValueError, match=f"sdxl: .* no {missing} ones"):
        compare("sdxl", np.zeros(real), np.ones(generated))


def test_one_image_of_each_class_is_enough_for_a_rank():
    assert auroc(np.array([0.0]), np.array([1.0])) == 1.0
    assert compare("g", np.array([1.0]), np.array([0.0])).auroc == 0.0


def test_the_interval_of_no_flags_is_the_closed_form():
    # None of n: the upper end u has (1 - u)^n = .025; all of n: the mirror image.
    assert clopper_pearson(0.0, 45) == (0.0, pytest.approx(1 - 0.025 ** (1 / 45)))
    assert clopper_pearson(1.0, 1) == (pytest.approx(0.025), 1.0)


def test_the_distance_from_uniform_is_the_largest_over_a_fine_grid():
    p_values = np.random.default_rng(3).beta(0.5, 1, 80)
    grid = np.linspace(0, 1, 200_001)
    excess = (p_values[:, None] <= grid).mean(0) - grid
    result = reliability("s", p_values)
    assert result.distance == pytest.approx(np.abs(excess).max(), abs=1e-5)
    assert result.too_many == pytest.approx(excess.max(), abs=1e-5)
    assert result.shares == tuple((p_values <= level).mean() for level in LEVELS)


def test_p_values_too_high_are_far_from_uniform_but_accuse_nobody_in_excess():
    result = reliability("s", np.full(100, 0.9))
    assert (result.distance, result.too_many) == (pytest.approx(0.9), pytest.approx(0.1))


def test_a_source_of_one_image_is_never_found_unreliable():
    # One value is at most 1 from the uniform distribution, and 5 % of uniform ones are over .975.
    result = reliability("s", np.array([0.5]))
    assert (result.images, result.distance) == (1, pytest.approx(0.5))
    assert result.by_chance == pytest.approx(0.975)


def test_uniform_p_values_exceed_the_distance_by_chance_one_time_in_twenty():
    rng = np.random.default_rng(4)
    far = [r.distance > r.by_chance for r in (reliability("s", rng.random(60)) for _ in range(600))]
    assert 0.03 < np.mean(far) < 0.075


def test_the_table_of_p_values_has_a_row_for_each_source():
    table = p_value_table(Results([], [], [], [reliability("web", np.array([0.5])), reliability("phone", np.ones(9))]))
    assert "| web | 1 | .000 | .000 | .000 | .000 | .000 | 1.000 | .500 | .500 | .975 |" in table
    assert "| phone | 9 |" in table
