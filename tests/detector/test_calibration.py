"""Conformal p-values against the definition, and what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.detector.calibration import Calibration, Stratum, Verdict, verdict

scores = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=60)


@given(scores, st.floats(-3, 3, width=32))
def test_p_is_the_definition_and_never_zero(held_out, score):
    p = Stratum("c", 0, np.array(held_out)).p_value(score)
    assert p == (1 + sum(s >= score for s in held_out)) / (len(held_out) + 1)
    assert 0 < p <= 1


@given(scores, st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_p_falls_as_the_score_grows(held_out, a, b):
    stratum = Stratum("c", 0, np.array(held_out))
    low, high = min(a, b), max(a, b)
    assert stratum.p_value(low) >= stratum.p_value(high)


def test_false_positives_stay_at_alpha_on_exchangeable_images():
    rng = np.random.default_rng(0)
    flagged = [Stratum("c", 0, rng.gamma(2, size=200)).p_value(rng.gamma(2)) <= 0.05 for _ in range(4000)]
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


def test_an_image_is_compared_with_those_of_its_own_size():
    calibration = Calibration((Stratum("small", 0, np.zeros(9)), Stratum("large", 64, np.ones(9))))
    assert [calibration.stratum(patches).calibration_id for patches in (4, 63, 64, 4096)] == [
        *["small"] * 2,
        *["large"] * 2,
    ]
    assert (calibration.stratum(63).p_value(0.5), calibration.stratum(64).p_value(0.5)) == (0.1, 1.0)


@pytest.mark.parametrize("least", [[], [1], [0, 64, 64], [64, 0]])
def test_strata_that_leave_a_size_out_or_to_two_are_refused(least):
    with pytest.raises(ValueError, match="begin at 0 patches and ascend"):
        Calibration(tuple(Stratum("s", n, np.zeros(3)) for n in least))


def test_saved_and_loaded_gives_the_same_p(tmp_path):
    scores = np.random.default_rng(1).normal(size=50)
    calibration = Calibration((Stratum("few", 0, scores), Stratum("many", 64, scores + 1)))
    calibration.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert [(s.calibration_id, s.min_patches) for s in again.strata] == [("few", 0), ("many", 64)]
    for saved, loaded in zip(calibration.strata, again.strata, strict=True):
        np.testing.assert_allclose(loaded.scores, saved.scores, rtol=1e-5)


def of_all(name, scores):
    """JSON of a calibration of one stratum."""
    return f'{{"strata": [{{"calibration_id": {name}, "min_patches": 0, "scores": {scores}}}]}}'


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "no json",
        '{"calibration_id": "a", "scores": [1]}',
        of_all('"a"', "[]"),
        of_all('"a"', "[NaN]"),
        '{"strata": []}',
        '{"strata": [{"calibration_id": "a", "min_patches": 0.5, "scores": [1]}]}',
        of_all("7", "[1]"),
        of_all("null", "[1]"),
        of_all('""', "[1]"),
        of_all('"a"', f"[{10**400}]"),
        "[" * 4000 + "]" * 4000,
        '{"strata": ' + "[" * 99_999,
    ],
    ids=lambda content: content[:60],
)
def test_damaged_file_is_named(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=r"c\.json"):
        Calibration.load(tmp_path / "c.json")
