"""Images to scores, without Beam.

Example::

    from mdmf_ops.detector import Detector

    detector = Detector.load()
    [result] = detector.score([open("photo.jpg", "rb").read()])
    print(result.verdict.value, result.p_value)
"""

from typing import TYPE_CHECKING, Any

from mdmf_ops.defaults import DEFAULT_ALPHA
from mdmf_ops.detector.calibration import Calibration, Verdict
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import DecodedImage, Limits, decode

if TYPE_CHECKING:
    from mdmf_ops.detector.detector import Detector
    from mdmf_ops.detector.scorer import Score, Scorer

__all__ = [
    "DEFAULT_ALPHA",
    "Calibration",
    "DecodedImage",
    "Detector",
    "ErrorCode",
    "ImageError",
    "Limits",
    "Score",
    "Scorer",
    "Verdict",
    "decode",
]


def __getattr__(name: str) -> Any:
    """What needs torch, when it is asked for: a process that only decodes starts without it."""
    if name not in ("Detector", "Score", "Scorer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mdmf_ops.detector import detector, scorer

    return getattr(detector if name == "Detector" else scorer, name)
