"""How good a detector is on generators and real sources that it was not trained on."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mdmf_ops.cores import usable_cores
from mdmf_ops.detector import Calibration, Detector
from mdmf_ops.training.calibrate import score_features
from mdmf_ops.training.data import LabelledImage, sources
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.fit import TrainingConfig, fit
from mdmf_ops.training.train import training_images

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


def false_positives(source: str, calibration_scores: np.ndarray, scores: np.ndarray) -> RealSourceResult:
    """Flag rates of real images under p-values from other real images."""
    calibration = Calibration("fold", calibration_scores)
    p_values = np.array([calibration.p_value(score) for score in scores])
    at_1, at_5 = (float((p_values <= alpha).mean()) for alpha in ALPHAS)
    return RealSourceResult(source, len(scores), at_1, at_5)


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
    real_sources = [
        false_positives(name, detector.calibration.scores, scores[[i for i in real if images[i].source == name]])
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
        none of it, under p-values from the held-out images of the other real sources.
    """
    names = [(name, generated) for generated in (True, False) for name in sources(images, generated)]
    results = Results([], [])
    shared = (images, training_features, test_features, config)
    with ProcessPoolExecutor(usable_cores(), initializer=_share, initargs=shared) as pool:
        for done, result in enumerate(pool.map(_leave_out, *zip(*names, strict=True))):
            progress(done + 1, len(names))
            (results.generators if isinstance(result, GeneratorResult) else results.real_sources).append(result)
    return results


def _share(*shared: Any) -> None:
    """Keeps what every fold needs in a worker process: features are gigabytes, and not sent with each fold."""
    global _shared
    _shared = shared
    torch.set_num_threads(1)


def _leave_out(name: str, generated: bool) -> GeneratorResult | RealSourceResult:
    """Trains without one source and tests on it."""
    images, training_features, test_features, config = _shared
    real = [i for i, image in enumerate(images) if not image.generated and image.held_out]
    model = fit(training_features, images, training_images(images, [name]), config)
    left_out = [
        i for i, image in enumerate(images) if image.source == name and (image.held_out or image.twin_of is None)
    ]
    scores = score_features(test_features, left_out, *model)
    if generated:
        return compare(name, score_features(test_features, real, *model), scores)
    others = [i for i in real if images[i].source != name]
    return false_positives(name, score_features(test_features, others, *model), scores)
