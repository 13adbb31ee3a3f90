"""Pixels to score, without Beam.

Example::

    from mdmf_ops.detector import Detector

    detector = Detector.load()
    [result] = detector.score([open("photo.jpg", "rb").read()])
    print(result.verdict.value, result.p_value)
"""

from mdmf_ops.detector.calibration import Calibration, Verdict
from mdmf_ops.detector.decode import DecodedImage, Limits, decode
from mdmf_ops.detector.detector import Detector
from mdmf_ops.detector.errors import ErrorCode, ImageError
from mdmf_ops.detector.scorer import DEFAULT_ALPHA, Score, Scorer

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
