"""Plots show the figures that the tables have."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the evaluate extra is not installed: pip install -e '.[test]'")

from matplotlib.axes import Axes

from mdmf_ops.training.plots import draw_roc


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_the_curve_has_the_rates_of_every_threshold_ties_or_not(tmp_path, monkeypatch, levels):
    rng = np.random.default_rng(0)
    real, own = (rng.permutation(np.arange(120) % levels).astype(float) for _ in range(2))
    drawn = []
    step = Axes.step
    monkeypatch.setattr(Axes, "step", lambda axes, *xy, **style: drawn.append(xy) or step(axes, *xy, **style))
    draw_roc({"g": (real, own)}, tmp_path / "roc.png")
    [(fpr, tpr)] = drawn
    rates = [((real >= t).mean(), (own >= t).mean()) for t in [*real, *own, np.inf]]
    for rate, _ in rates:
        shown = tpr[np.searchsorted(fpr, rate, side="right") - 1]  # of a step that begins at its point
        assert shown == max(found for flagged, found in rates if flagged <= rate)
