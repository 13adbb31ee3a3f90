"""From a score to a p-value and a verdict, against held-out real images.

Conformal (Vovk et al. 2005; Bates et al. 2023, arXiv 2104.08279): with n calibration scores of real images,
`p = (1 + #{calibration scores >= score}) / (n + 1)`. If an image is real and exchangeable with the
calibration images, P(p <= alpha) <= alpha, whatever the detector. p is never 0.
"""

import json
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
class Calibration:
    """Scores of real images that the detector was not trained on.

    Attributes:
        calibration_id: names these scores in every row.
        scores: (n,) float32, ascending.
    """

    calibration_id: str
    scores: np.ndarray

    def __post_init__(self):
        scores = np.asarray(self.scores)
        if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
            raise ValueError(f"{self.calibration_id}: calibration needs a non-empty list of finite scores")
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

    def save(self, path: Path) -> None:
        """Writes the scores as JSON: few, and of use to an auditor as text."""
        content = {"calibration_id": self.calibration_id, "scores": [float(s) for s in self.scores]}
        path.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads what `save` wrote. Raises ValueError naming the file where it is not that."""
        try:
            content = json.loads(path.read_text())
            return cls(content["calibration_id"], np.asarray(content["scores"], np.float32))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a calibration: {error!r}") from error
