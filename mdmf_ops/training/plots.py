"""An evaluation as pictures. Needs matplotlib: `pip install 'mdmf-ops[evaluate]'`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mdmf_ops.training.curves import CurvePoint, by_treatment


def draw_roc(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """One curve a generator, with a logarithmic axis of false positives.

    Args:
        scores: of each generator, scores of real images and of its own.
    """
    axes = _single("ROC of each generator", "false positives", "true positives")
    for name, (real, own) in scores.items():
        labels = np.r_[np.zeros(len(real)), np.ones(len(own))]
        # Every threshold: steps between those that are left out by default lie under the curve where scores tie.
        fpr, tpr, _ = roc_curve(labels, np.r_[real, own], drop_intermediate=False)
        axes.step(fpr, tpr, where="post", label=name)
    axes.set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1))
    _save(axes, path)


def draw_p_values(p_values: Mapping[str, np.ndarray], path: Path) -> None:
    """Share of each real source's images at or under each p-value, on logarithmic axes; the diagonal is the promise."""
    axes = _single("p-values of real images", "p", "share of the images at or under p")
    for name, values in p_values.items():
        axes.step(np.sort(values), np.arange(1, len(values) + 1) / len(values), where="post", label=name)
    axes.plot([1e-3, 1], [1e-3, 1], color="black", linestyle="--", label="uniform")
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
    _save(axes, path)


def draw_curves(points: Sequence[CurvePoint], path: Path) -> None:
    """One panel a treatment: AUROC, TPR, and real images that the plain threshold would flag."""
    [plain] = [point for point in points if point.treatment == "none"]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (name, own) in zip(panels, by_treatment(points), strict=True):
        for label in ("auroc", "tpr_at_5", "flagged"):
            axes.plot([p.level for p in own], [getattr(p, label) for p in own], marker=".", label=label)
            axes.axhline(getattr(plain, label), color="grey", linewidth=0.5)
        axes.set(xlabel=name, ylim=(0, 1))
    panels[0].legend()
    figure.savefig(path, dpi=100)


def _single(title: str, x: str, y: str) -> Axes:
    axes = Figure(figsize=(6, 5), layout="constrained").subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return axes


def _save(axes: Axes, path: Path) -> None:
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    axes.figure.savefig(path, dpi=100)
