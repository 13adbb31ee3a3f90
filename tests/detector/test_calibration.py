"""Conformal p-values against the definition, and what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.detector.calibration import Calibration, Verdict, verdict

scores = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=60)


@given(scores, st.floats(-3, 3, width=32))
def test_p_is_the_definition_and_never_zero(held_out, score):
    p = Calibration("c", np.array(held_out)).p_value(score)
    assert p == (1 + sum(s >= score for s in held_out)) / (len(held_out) + 1)
    assert 0 < p <= 1


@given(scores, st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_p_falls_as_the_score_grows(held_out, a, b):
    calibration = Calibration("c", np.array(held_out))
    low, high = min(a, b), max(a, b)
    assert calibration.p_value(low) >= calibration.p_value(high)


def test_false_positives_stay_at_alpha_on_exchangeable_images():
    rng = np.random.default_rng(0)
    flagged = [Calibration("c", rng.gamma(2, size=200)).p_value(rng.gamma(2)) <= 0.05 for _ in range(4000)]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, Verdict.LIKELY_AI),
        (0.0101, Verdict.UNCERTAIN),
        (0.1, Verdict.UNCERTAIN),
        (0.1001, Verdict.LIKELY_REAL),
        (1.0, Verdict.LIKELY_REAL),
    ],
)
def test_bands(p, expected):
    assert verdict(p, 0.01) is expected


def test_saved_and_loaded_gives_the_same_p(tmp_path):
    calibration = Calibration("all", np.random.default_rng(1).normal(size=50))
    calibration.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert again.calibration_id == "all"
    np.testing.assert_array_equal(again.scores, calibration.scores)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "no json",
        '{"calibration_id": "a", "scores": []}',
        '{"calibration_id": "a", "scores": [NaN]}',
    ],
)
def test_damaged_file_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=r"c\.json"):
        Calibration.load(tmp_path / "c.json")
