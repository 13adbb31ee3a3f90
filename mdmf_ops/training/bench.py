"""One evaluation: a detector, labelled images, and every figure that can be asked for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from mdmf_ops.detector import Detector
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.augment import Chain
from mdmf_ops.training.calibrate import CALIBRATION_CHAIN, SEED
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.curves import CurvePoint, chains, curve_points, subset
from mdmf_ops.training.data import LabelledImage, sources, unseen_real
from mdmf_ops.training.evaluate import Results, evaluate_detector, leave_both_out, leave_one_out
from mdmf_ops.training.features import Features, Progress, extract
from mdmf_ops.training.folds import countable, leave_out, without
from mdmf_ops.training.localise import CONTROL, Localisation, Splice, localise, make_splices
from mdmf_ops.training.score import score_features

ShowProgress = Callable[[str], AbstractContextManager[Progress]]
"""Called with what is done; what it yields is called as that goes on."""


class Bench:
    """Measures a detector, as it is or by what its settings make without each source.

    Args:
        images: labelled; every figure is of those among them that the detector in question did not see.
        work: where computed features are kept.
        left_out: train anew without each generator and real source that is judged.

    Raises:
        ValueError: a class is missing, or the detector was trained on a generator that it is to be judged by. Nothing
            is computed before.
    """

    def __init__(
        self, detector: Detector, images: Sequence[LabelledImage], work: Path, left_out: bool, show: ShowProgress
    ):
        self.detector = detector
        self.images = images
        self.work = work
        self.left_out = left_out
        self.show = show
        self.config = TrainingConfig.from_dict(detector.assets.table("training", "config"))
        trained = {label: detector.assets.table("training", "images", label) for label in ("real", "generated")}
        self._trained_real = trained["real"]
        if not left_out and (seen := sorted(trained["generated"].keys() & sources(images, generated=True))):
            raise ValueError(
                f"the detector was trained on {', '.join(seen)}: that measures nothing; try --leave_one_out"
            )
        if len({image.generated for image in images if self._is_test_image(image)}) < 2:
            raise ValueError("both real and generated images are needed that no training saw")

    def results(self) -> Results:
        """The figures of every evaluation."""
        if not self.left_out:
            return evaluate_detector(self.detector, self.images, self._test)
        with self.show("leaving one out") as bar:
            return leave_one_out(self.images, self._training, self._test, self.config, bar)

    def both_out(self) -> dict[str, dict[str, float]]:
        """See `leave_both_out`."""
        with self.show("leaving a generator and a real source out") as bar:
            return leave_both_out(self.images, self._training, self._test, self.config, bar)

    def curves(self, count: int) -> list[CurvePoint]:
        """Curves over at most `count` images a source."""
        chosen = [self.images[i] for i in subset(self.images, self._is_test_image, count)]
        generators = sources(chosen, generated=True)
        tests = [self._extract(chosen, chain, 1, SEED) for chain in chains()]
        if self.left_out:
            with self.show("leaving a generator out") as bar:
                folds = leave_out(generators, self.images, self._training, self.config, chosen, tests, bar)
            return curve_points([(fold.source, fold.real_scores, fold.own_scores) for fold in folds])
        model = self.detector.signature, self.detector.bank
        scores = np.stack([score_features(test, range(len(chosen)), *model) for test in tests])
        of = {name: [i for i, image in enumerate(chosen) if image.source == name] for name in generators}
        real = [i for i, image in enumerate(chosen) if not image.generated]
        return curve_points([(name, scores[:, real], scores[:, own]) for name, own in of.items()])

    def donors(self) -> dict[str, list[LabelledImage]]:
        """What is pasted in splices, by generator, and real images, which are pasted into as well, as `CONTROL`."""
        hosts = [image for image in self.images if not image.generated and self._is_test_image(image)]
        donors = {
            name: [image for image in self.images if image.source == name and self._is_test_image(image)]
            for name in sources(self.images, generated=True)
        }
        every = {**donors, CONTROL: hosts}
        if min(map(len, every.values())) < 2:
            raise ValueError("splices need two real images that no training saw, and two of each generator")
        return every

    def splices(self, count: int) -> list[Localisation]:
        """Localisation on `count` splices a generator, and on as many of real images in real ones."""
        donors = self.donors()
        made = {}
        for name, of in donors.items():
            with self.show(f"splices: {name}") as bar:
                made[name] = make_splices(donors[CONTROL], of, count, self.detector.backbone, SEED, bar)
        measure = partial(_localise, made, self.detector.backbone)
        if not self.left_out:
            return [measure([name], self.detector.signature, self.detector.bank) for name in made]
        with self.show("leaving a generator out") as bar:
            return without([[name] for name in made], self.images, self._training, self.config, measure, bar)

    def _is_test_image(self, image: LabelledImage) -> bool:
        if image.generated:
            return countable(image)
        return image.held_out if self.left_out else unseen_real(image, self._trained_real)

    @cached_property
    def _test(self) -> Features:
        return self._extract(self.images, CALIBRATION_CHAIN, 1, SEED)

    @cached_property
    def _training(self) -> Features:
        return self._extract(self.images, "training_chain", self.config.copies, self.config.seed)

    def _extract(self, images: Sequence[LabelledImage], chain: str | Chain, copies: int, seed: int) -> Features:
        with self.show(f"embedding images: {chain}") as bar:
            return extract(images, self.detector.backbone, chain, copies, seed, self.work, bar)


def _localise(
    made: dict[str, list[Splice]], backbone: Backbone, left_out: Sequence[str], signature: Signature, bank: Bank
) -> Localisation:
    [name] = left_out
    return localise(name, made[name], backbone, signature, bank)
