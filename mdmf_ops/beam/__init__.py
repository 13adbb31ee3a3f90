"""Beam transforms of the walk: `MatchImages`, `FetchImages`, `ScoreImages`, `WriteScores`.

Example::

    import apache_beam as beam
    from mdmf_ops.beam import FetchImages, MatchImages, Run, ScoreImages, WriteScores

    run = Run.start("gs://bucket/scores")
    with beam.Pipeline("FnApiRunner") as p:
        refs = p | MatchImages(["gs://bucket/photos"])
        refs | FetchImages() | ScoreImages(run) | WriteScores(run, refs)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for checkers of types; an alias says that a name is handed on
    from mdmf_ops.beam.commit import CommitOptions as CommitOptions
    from mdmf_ops.beam.filters import Filters as Filters
    from mdmf_ops.beam.image import Image as Image
    from mdmf_ops.beam.image import ImageRef as ImageRef
    from mdmf_ops.beam.previous import SkipUnchanged as SkipUnchanged
    from mdmf_ops.beam.read import FetchImages as FetchImages
    from mdmf_ops.beam.read import ReadImages as ReadImages
    from mdmf_ops.beam.run import Run as Run
    from mdmf_ops.beam.score import ScoreImages as ScoreImages
    from mdmf_ops.beam.sources import MatchImages as MatchImages
    from mdmf_ops.beam.write import WriteScores as WriteScores

# Each is imported when it is first asked for: Beam and torch take five seconds of CPU, and what only looks at an output
# (`mdmf runs`, `mdmf latest`) needs neither.
_MODULES = {
    "CommitOptions": "commit",
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

__all__ = [*_MODULES]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
