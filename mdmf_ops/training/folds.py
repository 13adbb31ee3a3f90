"""Detectors trained without one source each: what they say of it is what a detector says of a source it never saw."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mdmf_ops.cores import usable_cores
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Features, Progress
from mdmf_ops.training.fit import TrainingConfig, fit
from mdmf_ops.training.score import score_features
from mdmf_ops.training.train import training_images


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
    folds = []
    shared = (images, training_features, config, test_images, tests)
    with ProcessPoolExecutor(usable_cores(), initializer=_share, initargs=shared) as pool:
        for fold in pool.map(_leave_out, names):
            folds.append(fold)
            progress(len(folds), len(names))
    return folds


def _share(*shared: Any) -> None:
    """Keeps what every fold needs in a worker process: features are gigabytes, and not sent with each fold."""
    global _shared
    _shared = shared
    torch.set_num_threads(1)


def _leave_out(name: str) -> Fold:
    images, training_features, config, test_images, tests = _shared
    model = fit(training_features, images, training_images(images, [name]), config)
    own, real = [], []
    for i, image in enumerate(test_images):
        if image.source == name and (image.held_out or image.twin_of is None):
            own.append(i)
        elif image.source != name and not image.generated and image.held_out:
            real.append(i)
    scores = [np.stack([score_features(test, chosen, *model) for test in tests]) for chosen in (own, real)]
    return Fold(name, np.array(own, int), np.array(real, int), *scores)
