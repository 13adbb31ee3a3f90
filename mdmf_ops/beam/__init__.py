"""Beam transforms of the walk: `ReadImages`, `ScoreImages`, `WriteScores`.

Example::

    import apache_beam as beam
    from mdmf_ops.beam import ReadImages, Run, ScoreImages, WriteScores

    run = Run.start("gs://bucket/scores")
    with beam.Pipeline() as p:
        images = p | ReadImages(["gs://bucket/photos"])
        images | ScoreImages(run) | WriteScores(run)
"""

from mdmf_ops.beam.read import Image, ReadImages
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.score import ScoreImages
from mdmf_ops.beam.write import WriteScores

__all__ = ["Image", "ReadImages", "Run", "ScoreImages", "WriteScores"]
