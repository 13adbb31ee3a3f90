"""Beam transforms of the walk: `MatchImages`, `FetchImages`, `ScoreImages`, `WriteScores`.

Example::

    import apache_beam as beam
    from mdmf_ops.beam import FetchImages, MatchImages, Run, ScoreImages, WriteScores

    run = Run.start("gs://bucket/scores")
    with beam.Pipeline() as p:
        refs = p | MatchImages(["gs://bucket/photos"])
        refs | FetchImages() | ScoreImages(run) | WriteScores(run, refs)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdmf_ops.beam.filters import Filters
    from mdmf_ops.beam.image import Image, ImageRef
    from mdmf_ops.beam.previous import SkipUnchanged
    from mdmf_ops.beam.read import FetchImages, ReadImages
    from mdmf_ops.beam.run import Run
    from mdmf_ops.beam.score import ScoreImages
    from mdmf_ops.beam.sources import MatchImages
    from mdmf_ops.beam.write import WriteScores

__all__ = [
    "FetchImages",
    "Filters",
    "Image",
    "ImageRef",
    "MatchImages",
    "ReadImages",
    "Run",
    "ScoreImages",
    "SkipUnchanged",
    "WriteScores",
]

# Each is imported when it is first asked for: Beam and torch take five seconds of CPU, and what only looks at an output
# (`mdmf runs`, `mdmf latest`) needs neither.
_MODULES = {
    "FetchImages": "read",
    "Filters": "filters",
    "Image": "image",
    "ImageRef": "image",
    "MatchImages": "sources",
    "ReadImages": "read",
    "Run": "run",
    "ScoreImages": "score",
    "SkipUnchanged": "previous",
    "WriteScores": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
