"""Beam transforms of the walk: `MatchImages`, `FetchImages`, `ScoreImages`, `WriteScores`.

Example::

    import apache_beam as beam
    from mdmf_ops.beam import FetchImages, MatchImages, Run, ScoreImages, WriteScores

    run = Run.start("gs://bucket/scores")
    with beam.Pipeline() as p:
        refs = p | MatchImages(["gs://bucket/photos"])
        refs | FetchImages() | ScoreImages(run) | WriteScores(run, refs)
"""

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
