"""Figures of merit: how well scores rank, and how far p-values keep what they promise. All rates are in [0, 1]."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, kstwo
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

ALPHAS = (0.01, 0.05)

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)
"""Where the distribution of p-values is tabulated: it matters most near zero."""


@dataclass(frozen=True)
class GeneratorResult:
    """One generator's images against the real ones, all unseen."""

    generator: str
    images: int
    auroc: float
    average_precision: float
    tpr_at_1: float
    tpr_at_5: float


@dataclass(frozen=True)
class FlagRates:
    """How often the p-values of one source's images, real or generated, fall at or under each alpha."""

    source: str
    images: int
    at_1: float
    at_5: float


@dataclass(frozen=True)
class Reliability:
    """How the p-values of one source's real images lie, where they should be uniform.

    Attributes:
        source: of real images, or `all`.
        images: how many.
        shares: share of the p-values at or under each of `LEVELS`.
        distance: Kolmogorov and Smirnov's, the largest difference of the p-values' distribution from the uniform one.
        too_many: the largest excess of it over the uniform one: what matters to who is accused.
        by_chance: the distance that 5 % of uniform samples of this size exceed.
    """

    source: str
    images: int
    shares: tuple[float, ...]
    distance: float
    too_many: float
    by_chance: float


def auroc(real_scores: np.ndarray, generated_scores: np.ndarray) -> float:
    """Share of pairs in which the generated score is the higher one; a tie counts half."""
    return float(roc_auc_score(*_labelled(real_scores, generated_scores)))


def compare(generator: str, real_scores: np.ndarray, generated_scores: np.ndarray) -> GeneratorResult:
    """Ranks one generator's scores against real ones; a TPR is taken where at most 1 or 5 % of real are flagged.

    Raises:
        ValueError: a class has no scores; names the generator.
    """
    if not len(real_scores) or not len(generated_scores):
        missing = "generated" if len(real_scores) else "real"
        raise ValueError(f"{generator}: both real and generated images are needed, there are no {missing} ones")
    labels, scores = _labelled(real_scores, generated_scores)
    # Every threshold: what lies between two others on a line is dropped by default, and ties make such lines.
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    at_1, at_5 = (float(tpr[fpr <= alpha].max()) for alpha in ALPHAS)
    precision = float(average_precision_score(labels, scores))
    return GeneratorResult(
        generator, len(generated_scores), auroc(real_scores, generated_scores), precision, at_1, at_5
    )


def flag_rates(source: str, p_values: np.ndarray) -> FlagRates:
    """How often one source's images, at least one, are flagged by their p-values."""
    return FlagRates(source, len(p_values), *(float((p_values <= alpha).mean()) for alpha in ALPHAS))


def clopper_pearson(rate: float, images: int) -> tuple[float, float]:
    """95 % confidence interval of a rate that was counted over independent images (Clopper and Pearson 1934)."""
    interval = binomtest(round(rate * images), images).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def reliability(source: str, p_values: np.ndarray) -> Reliability:
    """Compares p-values of real images, at least one, with the uniform distribution."""
    ordered = np.sort(p_values)
    n = len(ordered)
    above = float((np.arange(1, n + 1) / n - ordered).max())
    below = float((ordered - np.arange(n) / n).max())
    return Reliability(
        source,
        n,
        tuple(float((ordered <= level).mean()) for level in LEVELS),
        max(above, below),
        max(above, 0.0),
        float(kstwo.ppf(0.95, n)),
    )


def _labelled(real_scores: np.ndarray, generated_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.zeros(len(real_scores)), np.ones(len(generated_scores))]
    return labels, np.r_[real_scores, generated_scores]
