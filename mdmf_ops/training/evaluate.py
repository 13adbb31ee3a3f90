"""How good a detector is on generators and real sources that it was not trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mdmf_ops.detector import Calibration, Detector
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.calibrate import stratify
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.curves import CurvePoint
from mdmf_ops.training.data import LabelledImage, sources, unseen_real
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.folds import Fold, countable, leave_out, without
from mdmf_ops.training.localise import Localisation
from mdmf_ops.training.metrics import (
    FlagRates,
    GeneratorResult,
    Reliability,
    auroc,
    compare,
    flag_rates,
    reliability,
)
from mdmf_ops.training.score import score_features


@dataclass(frozen=True)
class Results:
    """Figures by generator and by real source.

    Attributes:
        generators, found: how a generator's images rank among real ones, and how often their p-values flag them.
        real_sources: how often real images are flagged; in a last row all of them, each counting once.
        reliability: in the same rows, how their p-values lie.
        both_out: for each generator the AUROC against each real source, neither of which the detector saw.
        curves, splices: where they were asked for.
        scores: of each generator, the scores of real images and of its own.
        p_values: of each real source's images.
    """

    generators: list[GeneratorResult]
    found: list[FlagRates]
    real_sources: list[FlagRates]
    reliability: list[Reliability]
    both_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curves: Sequence[CurvePoint] = ()
    splices: Sequence[Localisation] = ()
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    p_values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def means(self) -> GeneratorResult:
        """Mean over the generators, each counting once."""
        rows = [[r.images, r.auroc, r.average_precision, r.tpr_at_1, r.tpr_at_5] for r in self.generators]
        images = sum(r.images for r in self.generators)
        return GeneratorResult("mean", images, *(float(mean) for mean in np.mean(rows, axis=0)[1:]))

    def mean_found(self) -> FlagRates:
        """Mean over the generators, each counting once."""
        at_1, at_5 = np.mean([(r.at_1, r.at_5) for r in self.found], axis=0)
        return FlagRates("mean", sum(r.images for r in self.found), float(at_1), float(at_5))


def stratified_p_values(calibration: Calibration, scores: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(n,) float64: the p-value of each score, as an image of so many patches gets it."""
    return np.array([calibration.stratum(n).p_value(score) for score, n in zip(scores, patches, strict=True)])


def evaluate_detector(detector: Detector, images: Sequence[LabelledImage], test_features: Features) -> Results:
    """Measures a detector as it is, on images that it has not seen.

    Args:
        images: of generators that it was not trained on; real ones that it has seen do not count.
        test_features: of `images`, after the evaluation chain.
    """
    trained_real = detector.assets.table("training", "images", "real")
    real = [i for i, image in enumerate(images) if unseen_real(image, trained_real)]
    scores = score_features(test_features, range(len(images)), detector.signature, detector.bank)
    own = {
        name: [i for i, image in enumerate(images) if image.source == name and countable(image)]
        for name in sources(images, generated=True)
    }
    ranked = {name: (scores[real], scores[indices]) for name, indices in own.items()}
    p_values = stratified_p_values(detector.calibration, scores, test_features.counts())
    names = sorted({images[i].source for i in real})
    of_real = {name: p_values[[i for i in real if images[i].source == name]] for name in names}
    return _results(ranked, {name: p_values[indices] for name, indices in own.items()}, of_real)


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
        For each generator: its images against the held-out real ones, by a detector that saw neither, and under
        p-values from all real sources. A generated twin of a real training image does not count. For each real source:
        its flag rates by a detector that saw none of it, under p-values from the other real sources but for copies of
        its images, each scored by a detector that saw none of that one.
    """
    generators, real_sources = (sources(images, generated) for generated in (True, False))
    names = [*generators, *real_sources]
    folds = leave_out(names, images, training_features, config, images, [test_features], progress)
    generated, real = folds[: len(generators)], folds[len(generators) :]
    p_values = partial(left_out_p_values, images, test_features.counts())
    return _results(
        {fold.source: (fold.real_scores[0], fold.own_scores[0]) for fold in generated},
        {fold.source: p_values(fold, real) for fold in generated},
        {fold.source: p_values(fold, [other for other in real if other is not fold]) for fold in real},
    )


def left_out_p_values(
    images: Sequence[LabelledImage], patches: np.ndarray, fold: Fold, others: Sequence[Fold]
) -> np.ndarray:
    """(len(fold.own),) float64: p-values of a source's images from other real sources, but for copies of these images.

    Args:
        images, patches: tested, and how many patches each of them has.
        fold, others: scores of each source's images by a detector that saw none of them.
    """
    own = {images[i].sha256 for i in fold.own}
    indices = np.concatenate([other.own for other in others])
    scores = np.concatenate([other.own_scores[0] for other in others])
    kept = np.array([images[i].sha256 not in own for i in indices])
    names = np.array([images[i].source for i in indices])
    calibration = stratify("others", scores[kept], patches[indices[kept]], names[kept])
    return stratified_p_values(calibration, fold.own_scores[0], patches[fold.own])


def leave_both_out(
    images: Sequence[LabelledImage],
    training_features: Features,
    test_features: Features,
    config: TrainingConfig,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """AUROC of each generator against each real source, by a detector that saw none of either.

    Args:
        training_features, test_features: as of `leave_one_out`.
    """
    generators, real_sources = (sources(images, generated) for generated in (True, False))
    pairs = [(generator, real) for generator in generators for real in real_sources]
    measure = partial(_between, images, test_features)
    found = iter(without(pairs, images, training_features, config, measure, progress))
    return {generator: {real: next(found) for real in real_sources} for generator in generators}


def _between(
    images: Sequence[LabelledImage], test: Features, left_out: Sequence[str], signature: Signature, bank: Bank
) -> float:
    generated, real = (
        score_features(test, [i for i, m in enumerate(images) if m.source == name and countable(m)], signature, bank)
        for name in left_out
    )
    return auroc(real, generated)


def _results(
    ranked: dict[str, tuple[np.ndarray, np.ndarray]], found: dict[str, np.ndarray], p_values: dict[str, np.ndarray]
) -> Results:
    """Figures of the generators, and of the p-values of their images and of each real source's."""
    every = {**p_values, "all": np.concatenate(list(p_values.values()))}
    return Results(
        [compare(name, real, own) for name, (real, own) in ranked.items()],
        [flag_rates(name, values) for name, values in found.items()],
        [flag_rates(name, values) for name, values in every.items()],
        [reliability(name, values) for name, values in every.items()],
        scores=ranked,
        p_values=p_values,
    )
