"""How good a detector is on generators and real sources that it was not trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mdmf_ops.detector import Calibration, Detector
from mdmf_ops.training.calibrate import stratify
from mdmf_ops.training.data import LabelledImage, sources
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.fit import TrainingConfig
from mdmf_ops.training.folds import leave_out
from mdmf_ops.training.metrics import (
    GeneratorResult,
    RealSourceResult,
    Reliability,
    compare,
    false_positives,
    reliability,
)
from mdmf_ops.training.score import score_features


class Results(NamedTuple):
    """Figures by generator and by real source; `reliability` has a last row of all real images."""

    generators: list[GeneratorResult]
    real_sources: list[RealSourceResult]
    reliability: list[Reliability]

    def means(self) -> GeneratorResult:
        """Mean over the generators, each counting once."""
        rows = [[r.images, r.auroc, r.average_precision, r.tpr_at_1, r.tpr_at_5] for r in self.generators]
        images = sum(r.images for r in self.generators)
        return GeneratorResult("mean", images, *(float(mean) for mean in np.mean(rows, axis=0)[1:]))


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
    names = sorted({images[i].source for i in real})
    return _results(generators, {name: p_values[[i for i in real if images[i].source == name]] for name in names})


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
    p_values = {}
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
        p_values[fold.source] = stratified_p_values(calibration, fold.own_scores[0], patches[fold.own])
    return _results(generators, p_values)


def _results(generators: list[GeneratorResult], p_values: dict[str, np.ndarray]) -> Results:
    """Figures of the generators, and of the p-values of each real source's images."""
    every = {**p_values, "all": np.concatenate(list(p_values.values()))}
    return Results(
        generators,
        [false_positives(name, values) for name, values in p_values.items()],
        [reliability(name, values) for name, values in every.items()],
    )
