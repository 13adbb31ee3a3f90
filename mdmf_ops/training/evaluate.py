"""How good a detector is on generators and real sources that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mdmf_ops.detector import Calibration, Detector
from mdmf_ops.training.calibrate import stratify
from mdmf_ops.training.data import LabelledImage, sources
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.fit import TrainingConfig
from mdmf_ops.training.folds import leave_out
from mdmf_ops.training.score import score_features

ALPHAS = (0.01, 0.05)


@dataclass(frozen=True)
class GeneratorResult:
    """One generator's images against the real ones, all unseen. Every figure is in [0, 1]."""

    generator: str
    images: int
    auroc: float
    average_precision: float
    tpr_at_1: float
    tpr_at_5: float


@dataclass(frozen=True)
class RealSourceResult:
    """How often one source's real images fall at or under each alpha. Every rate is in [0, 1]."""

    source: str
    images: int
    fpr_at_1: float
    fpr_at_5: float


class Results(NamedTuple):
    """Figures by generator and by real source."""

    generators: list[GeneratorResult]
    real_sources: list[RealSourceResult]

    def means(self) -> GeneratorResult:
        """Mean over the generators, each counting once."""
        rows = [[r.images, r.auroc, r.average_precision, r.tpr_at_1, r.tpr_at_5] for r in self.generators]
        images = sum(r.images for r in self.generators)
        return GeneratorResult("mean", images, *(float(mean) for mean in np.mean(rows, axis=0)[1:]))


def compare(generator: str, real_scores: np.ndarray, generated_scores: np.ndarray) -> GeneratorResult:
    """Ranks one generator's scores against real ones; a TPR is taken where at most 1 or 5 % of real are flagged."""
    labels = np.r_[np.zeros(len(real_scores)), np.ones(len(generated_scores))]
    scores = np.r_[real_scores, generated_scores]
    fpr, tpr, _ = roc_curve(labels, scores)
    at_1, at_5 = (float(tpr[fpr <= alpha].max()) for alpha in ALPHAS)
    return GeneratorResult(
        generator,
        len(generated_scores),
        float(roc_auc_score(labels, scores)),
        float(average_precision_score(labels, scores)),
        at_1,
        at_5,
    )


def false_positives(source: str, p_values: np.ndarray) -> RealSourceResult:
    """Flag rates of one source's real images under their p-values."""
    at_1, at_5 = (float((p_values <= alpha).mean()) for alpha in ALPHAS)
    return RealSourceResult(source, len(p_values), at_1, at_5)


def stratified_p_values(calibration: Calibration, scores: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(n,) float64: the p-value of each score, as an image of so many patches gets it."""
    return np.array([calibration.stratum(n).p_value(score) for score, n in zip(scores, patches, strict=True)])


def evaluate_detector(detector: Detector, images: Sequence[LabelledImage], test_features: Features) -> Results:
    """Measures a detector as it is, on images that it has not seen.

    Args:
        test_features: of `images`, after the evaluation chain.

    Raises:
        ValueError: a class is missing, or the detector was trained on a generator or saw these real images.
    """
    trained = detector.assets.manifest["training"]["images"]
    if seen := sorted(set(trained["generated"]) & set(sources(images, generated=True))):
        raise ValueError(f"the detector was trained on {', '.join(seen)}: that measures nothing; try --leave_one_out")
    real = [
        i
        for i, image in enumerate(images)
        if not image.generated and (image.held_out or image.source not in trained["real"])
    ]
    scores = score_features(test_features, range(len(images)), detector.signature, detector.bank)
    generators = [
        compare(name, scores[real], scores[[i for i, image in enumerate(images) if image.source == name]])
        for name in sources(images, generated=True)
    ]
    if not real or not generators:
        raise ValueError("both real and generated images are needed")
    p_values = stratified_p_values(detector.calibration, scores, test_features.counts())
    real_sources = [
        false_positives(name, p_values[[i for i in real if images[i].source == name]])
        for name in sorted({images[i].source for i in real})
    ]
    return Results(generators, real_sources)


def leave_one_out(
    images: Sequence[LabelledImage],
    training_features: Features,
    test_features: Features,
    config: TrainingConfig,
    progress: Progress,
) -> Results:
    """Trains once without each generator and once without each real source, and tests on what was left out.

    Args:
        training_features, test_features: of `images`, after the training and the evaluation chain.

    Returns:
        For each generator: its images against the held-out real ones, by a detector that saw neither. A generated
        twin of a real training image does not count. For each real source: its flag rates by a detector that saw
        none of it, under p-values from the other real sources, each scored by a detector that saw none of that one.
    """
    names = [(name, generated) for generated in (True, False) for name in sources(images, generated)]
    folds = leave_out([name for name, _ in names], images, training_features, config, images, [test_features], progress)
    generators = [
        compare(fold.source, fold.real_scores[0], fold.own_scores[0])
        for fold, (_, generated) in zip(folds, names, strict=True)
        if generated
    ]
    real = [fold for fold, (_, generated) in zip(folds, names, strict=True) if not generated]
    patches = test_features.counts()
    real_sources = []
    for fold in real:
        others = [other for other in real if other is not fold]
        if not others:
            raise ValueError(f"{fold.source} is the only real source: none is left to tell its p-values")
        calibration = stratify(
            "others",
            np.concatenate([other.own_scores[0] for other in others]),
            np.concatenate([patches[other.own] for other in others]),
            np.concatenate([np.full(len(other.own), other.source) for other in others]),
        )
        p_values = stratified_p_values(calibration, fold.own_scores[0], patches[fold.own])
        real_sources.append(false_positives(fold.source, p_values))
    return Results(generators, real_sources)
