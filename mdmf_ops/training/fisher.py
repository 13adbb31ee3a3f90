"""A signature in closed form: Fisher's discriminant of generated images.

Photographs differ in content far more than in what a generator leaves. Fisher's linear discriminant (1936) weighs every
direction by the inverse of the variance among images of one source, and is the witness function of the most powerful
two-sample test there is for normal features (Kuebler et al. 2022, arXiv 2102.05573). It learns nothing by heart: no
optimisation, one solution, in a second.

What tells a generator from photographs is also what its makers let it draw: portraits, birds. A generator that is yet
to come draws something else, and shares with those at hand what they share with each other. So their directions are not
averaged alone: each counts by how well it agrees with the others (`in_common`).

The signature of a patch is that discriminant, in units of the real patches' deviation. MMD is two-sided: an image less
like a generated one than most real images would be as far from a bank of all real ones as one more like it. So the
bank is of the real patches that lie farthest from generated ones, and distance from it grows all the way to these.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mdmf_ops.detector.signature import Signature

_SHRINKAGE = 1.0
"""Added to the covariance's diagonal, in units of the means' own variance (Friedman 1989)."""


def discriminant(
    means: np.ndarray,
    sources: Sequence[str],
    generated: np.ndarray,
    between_sources: float = 0.0,
    in_common: float = 0.0,
) -> np.ndarray:
    """The direction that tells generated images from real ones, whatever their content.

    Args:
        means: (n, d) float, the mean embedding of each image.
        sources: of each image.
        generated: (n,) bool; a source is of one class.
        between_sources: weight of the scatter of the real sources' means beside the covariance within sources: a
            detector must not tell one camera from another.
        in_common: how much of the direction, from 0 to 1, is what the generators have in common; the rest is their
            mean, so that one that is like no other is found as well.

    Returns:
        (d,) float64, higher for generated images. Every real image counts alike, and with 0 every generator.
    """
    means = np.asarray(means, np.float64)
    spread = means.std(0) + 1e-6
    means = (means - means.mean(0)) / spread
    names = np.asarray(sources)
    real_mean = means[~generated].mean(0)
    covariance = _SHRINKAGE * np.eye(means.shape[1])
    towards = []
    for name in np.unique(names):
        own = means[names == name]
        centre = own.mean(0)
        covariance += (own - centre).T @ (own - centre) / len(means)
        if generated[names == name].all():
            towards.append(centre - real_mean)
        else:
            share = len(own) / (~generated).sum()
            covariance += between_sources * share * np.outer(centre - real_mean, centre - real_mean)
    offsets = np.stack(towards, axis=1)
    solved = np.linalg.solve(covariance, offsets)
    return solved @ _generator_weights(offsets.T @ solved, in_common) / spread


def _generator_weights(products: np.ndarray, in_common: float) -> np.ndarray:
    """What each generator's direction counts.

    Args:
        products: (G, G) of the generators' offsets from real images, in units of the scatter within sources: the
            squares of Mahalanobis distances on the diagonal.
    """
    length = np.sqrt(np.diag(products))
    cosines = products / np.outer(length, length)
    np.fill_diagonal(cosines, 0)
    agreement = cosines.sum(0) / max(len(length) - 1, 1)
    # Squared, so that a few that are alike outweigh many that are like nothing; by length, so that far is not much.
    shared, alike = agreement.clip(min=0) ** 2 / length, np.ones_like(length)
    if not shared.any():  # one generator, or none like another
        return alike / len(alike)
    shared, alike = (weights / np.sqrt(weights @ products @ weights) for weights in (shared, alike))
    return in_common * shared + (1 - in_common) * alike


def fisher_signature(
    means: np.ndarray,
    sources: Sequence[str],
    generated: np.ndarray,
    real_patches: np.ndarray,
    views: Sequence[Sequence[int]] | None,
    between_sources: float,
    in_common: float,
    width: float,
) -> Signature:
    """A signature of one number a view.

    Args:
        means, sources, generated, between_sources, in_common: of `discriminant`.
        real_patches: (N, d) embeddings of real patches, which set zero and the unit.
        views: of the embedding.
        width: of every view's kernel, in that unit.
    """
    signature = Signature(means.shape[1], 0, 1, views)
    mean = real_patches.mean(0, dtype=np.float64)
    signature.mean.copy_(torch.from_numpy(mean))
    centred = real_patches - mean
    with torch.no_grad():
        for (start, stop), last in zip(signature.views, signature.last, strict=True):
            direction = discriminant(means[:, start:stop], sources, generated, between_sources, in_common)
            direction /= (centred[:, start:stop] @ direction).std()
            last.weight.copy_(torch.from_numpy(direction)[None])
            last.bias.zero_()
        signature.log_width.fill_(float(np.log(width)))
    return signature


def least_generated(signatures: Tensor, size: int) -> Tensor:
    """(E, P, 1) of real patches -> (E, size, 1): in each view those that lie farthest from generated ones."""
    return signatures.sort(dim=1).values[:, :size]
