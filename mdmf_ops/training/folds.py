"""Detectors trained without some source each: what they say of it is what a detector says of a source it never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.fit import fit
from mdmf_ops.training.processes import workers
from mdmf_ops.training.score import score_features
from mdmf_ops.training.train import training_images

T = TypeVar("T")

Measure = Callable[[Sequence[str], Signature, Bank], T]
"""What is asked of a detector that was trained without these sources."""


@dataclass(frozen=True)
class Fold:
    """Scores by a detector that was trained without one source, in every test.

    Attributes:
        source: what was left out.
        own: indices of the source's images in the test images, but for twins of real training images.
        real: indices of the real test images of other sources that no training saw.
        own_scores, real_scores: (tests, len(own)) and (tests, len(real)) float32.
    """

    source: str
    own: np.ndarray
    real: np.ndarray
    own_scores: np.ndarray
    real_scores: np.ndarray


def leave_out(
    names: Sequence[str],
    images: Sequence[LabelledImage],
    training_features: Features,
    config: TrainingConfig,
    test_images: Sequence[LabelledImage],
    tests: Sequence[Features],
    progress: Progress,
) -> list[Fold]:
    """Trains once without each source, on all cores, and scores test images.

    Args:
        names: sources to leave out, one at a time.
        images, training_features: what to train on, after the training chain.
        tests: features of `test_images`, each after some chain.

    Returns:
        A fold for each name, in their order.
    """
    measure = partial(_score, test_images, tests)
    return without([[name] for name in names], images, training_features, config, measure, progress)


def without(
    left_out: Sequence[Sequence[str]],
    images: Sequence[LabelledImage],
    training_features: Features,
    config: TrainingConfig,
    measure: Measure[T],
    progress: Progress,
) -> list[T]:
    """Trains once without each group of sources, on all cores.

    Args:
        left_out: groups of sources that no detector sees together with the others.
        images, training_features: what to train on, after the training chain.
        measure: called in the process that trained, which has it from before: it may hold features of gigabytes.

    Returns:
        What was measured without each group, in their order.
    """
    results = []
    with workers(_share, images, training_features, config, measure) as pool:
        for result in pool.map(_train_without, left_out):
            results.append(result)
            progress(len(results), len(left_out))
    return results


def _share(*shared: Any) -> None:
    """Keeps what every fold needs in a worker process: features are gigabytes, and not sent with each fold."""
    global _shared
    _shared = shared
    torch.set_num_threads(1)


def _train_without(left_out: Sequence[str]) -> Any:
    images, training_features, config, measure = _shared
    return measure(left_out, *fit(training_features, images, training_images(images, left_out), config))


def countable(image: LabelledImage) -> bool:
    """Whether an image tells anything of a detector trained without its source: no twin of a training image does."""
    return image.held_out or image.twin_of is None


def _score(
    test_images: Sequence[LabelledImage],
    tests: Sequence[Features],
    left_out: Sequence[str],
    signature: Signature,
    bank: Bank,
) -> Fold:
    [name] = left_out
    own, real = [], []
    for i, image in enumerate(test_images):
        if image.source == name and countable(image):
            own.append(i)
        elif image.source != name and not image.generated and image.held_out:
            real.append(i)
    scores = [np.stack([score_features(test, chosen, signature, bank) for test in tests]) for chosen in (own, real)]
    return Fold(name, np.array(own, int), np.array(real, int), *scores)
