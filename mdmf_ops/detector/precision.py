"""Whether a detector may run its backbone in bfloat16: where its scores stay what they are in float32.

bfloat16 keeps 8 bits of a number. A transformer may lose little by it; `micro` reads small deviations, and its scores
rise with what is lost: that would accuse. So it is no choice by the name of a network but a measurement on each
detector, when it is loaded, on the device where it will run.
"""

import logging
from collections.abc import Callable, Iterator

import numpy as np

from mdmf_ops.defaults import PRECISIONS
from mdmf_ops.detector.scorer import Terms
from mdmf_ops.images.tiles import TileGeometry

TOLERANCE = 0.05
"""A score may move by this share of the distance between the quartiles of the calibration's scores."""

_OF_PROBES = 0.2
"""Of the tolerance, since probes are few: images were seen to move up to five times as far as the worst probe."""

_log = logging.getLogger(__name__)


def keeps_scores(evidence: Callable[[np.ndarray, str], np.ndarray], precision: str, terms: Terms) -> bool:
    """Whether every probe's score stays well within the tolerance.

    Args:
        evidence: of the patches of tiles, at a precision.
        precision: of `PRECISIONS`.
    """
    allowed = _OF_PROBES * TOLERANCE * spread(terms)
    for tiles in probes(terms.geometry):
        fast, exact = (evidence(tiles, p).mean(dtype=np.float64) for p in (precision, PRECISIONS[0]))
        moved = abs(fast - exact)
        if not moved <= allowed:  # nor is NaN
            _log.warning("%s moves a score by %.2g, more than %.2g: float32 it is", precision, moved, allowed)
            return False
    return True


def spread(terms: Terms) -> float:
    """Distance between the quartiles of the calibration's scores: how far real images lie from each other."""
    scores = np.concatenate([stratum.scores for stratum in terms.calibration.strata])
    low, high = np.quantile(scores, [0.25, 0.75])
    return float(high - low)


def probes(geometry: TileGeometry) -> Iterator[np.ndarray]:
    """Pictures of two tiles each, (2, 3, H, W) uint8, the same ones every time: slopes with no, some and much grain."""
    rng = np.random.default_rng(0)
    side_px = geometry.max_tile_px
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    for grain in (0, 2, 6, 20, 60):
        slopes = rng.uniform(-120, 120, (2, 3, 2, 1, 1))
        smooth = 128 + slopes[:, :, 0] * (x - 0.5) + slopes[:, :, 1] * (y - 0.5) + 20 * np.sin(x * y * 40)
        yield (smooth + rng.normal(0, grain, smooth.shape)).clip(0, 255).astype(np.uint8)
