"""From a score to a p-value and a verdict, against real images that the detector was not trained on.

Conformal (Vovk et al. 2005; Bates et al. 2023, arXiv 2104.08279): with n calibration scores of real images,
`p = (1 + #{calibration scores >= score}) / (n + 1)`. If an image is real and exchangeable with the
calibration images, P(p <= alpha) <= alpha, whatever the detector. p is never 0.

The scores that `mdmf calibrate` keeps are quantiles, at each height those of the real source that looks most generated
there: for that one P(p <= alpha) is about alpha, as far as its images tell, and less for the others. Sources of fewer
than fifty images count as one together: a hard one among them has more than alpha. One of some fifty says little of its
highest hundredth, for which a hundred are needed; what sources got that were left out is in the model card.

A score of few patches varies more than one of many, so that an image is compared with real ones of its own size: with
its stratum (Vovk 2012, "Mondrian" conformal prediction).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

UNCERTAIN_BAND = 10
"""A p-value over alpha and up to this many alphas is `uncertain`."""


class Verdict(str, Enum):
    """What a p-value says at a chosen alpha. Evidence, not an action."""

    LIKELY_AI = "likely_ai"
    """p <= alpha: of real images like the calibration's, at most a fraction alpha is called so."""
    UNCERTAIN = "uncertain"
    """alpha < p <= 10 alpha: unusual for a real image, but not unusual enough."""
    LIKELY_REAL = "likely_real"
    """p > 10 alpha: nothing found. Not a proof of authenticity."""


def verdict(p_value: float, alpha: float) -> Verdict:
    """Verdict of a p-value at the level alpha."""
    if p_value <= alpha:
        return Verdict.LIKELY_AI
    return Verdict.UNCERTAIN if p_value <= UNCERTAIN_BAND * alpha else Verdict.LIKELY_REAL


@dataclass(frozen=True)
class Stratum:
    """Scores of real images of one range of sizes.

    Attributes:
        calibration_id: names these scores in every row.
        min_patches: of an image in this stratum; its upper end is the next stratum's.
        scores: (n,) float32, ascending.
    """

    calibration_id: str
    min_patches: int
    scores: np.ndarray

    def __post_init__(self):
        scores = np.asarray(self.scores)
        if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
            raise ValueError(f"{self.calibration_id}: calibration needs a non-empty list of finite scores")
        if isinstance(self.min_patches, bool) or not isinstance(self.min_patches, int) or self.min_patches < 0:
            raise ValueError(f"{self.calibration_id}: min_patches is a number of patches, found {self.min_patches!r}")
        if not isinstance(self.calibration_id, str) or not self.calibration_id:
            raise ValueError(f"calibration_id is a name, found {self.calibration_id!r}")
        object.__setattr__(self, "scores", np.sort(scores.astype(np.float32)))

    @property
    def smallest_p_value(self) -> float:
        """The least p-value these scores can give: a smaller alpha could never be reached."""
        return 1 / (self.scores.size + 1)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a score, in (0, 1]: falls as the score grows, ties count against it."""
        n = self.scores.size
        at_least = n - np.searchsorted(self.scores, np.float32(score), side="left")
        return float((1 + at_least) / (n + 1))


@dataclass(frozen=True)
class Calibration:
    """Scores of real images that the detector was not trained on, by the images' size.

    Attributes:
        strata: by ascending `min_patches`, the first of which is 0.
    """

    strata: tuple[Stratum, ...]

    def __post_init__(self):
        least = [stratum.min_patches for stratum in self.strata]
        if not least or least[0] != 0 or least != sorted(set(least)):
            raise ValueError(f"strata begin at 0 patches and ascend, found {least}")

    @classmethod
    def of(cls, calibration_id: str, scores: Sequence[float] | np.ndarray) -> "Calibration":
        """One stratum for images of every size."""
        return cls((Stratum(calibration_id, 0, np.asarray(scores)),))

    def stratum(self, patches: int) -> Stratum:
        """The stratum of an image of so many patches."""
        return next(stratum for stratum in reversed(self.strata) if stratum.min_patches <= patches)

    def save(self, path: Path) -> None:
        """Writes the scores as JSON: few, and of use to an auditor as text."""
        strata = [
            {
                "calibration_id": stratum.calibration_id,
                "min_patches": stratum.min_patches,
                "scores": [float(f"{score:.6g}") for score in stratum.scores],
            }
            for stratum in self.strata
        ]
        path.write_text(json.dumps({"strata": strata}) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads what `save` wrote. Raises ValueError naming the file where it is not that."""
        try:
            return cls(
                tuple(
                    Stratum(entry["calibration_id"], entry["min_patches"], np.asarray(entry["scores"], np.float32))
                    for entry in json.loads(path.read_text())["strata"]
                )
            )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: not a calibration: {error!r}") from error
