"""The transforms as Beam YAML takes them: plain arguments in, rows with a schema out. See `examples/scan.yaml`."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PBegin

from mdmf_ops.beam.filters import Filters
from mdmf_ops.beam.read import FetchImages
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.score import Row, ScoreImages
from mdmf_ops.beam.sources import MatchImages
from mdmf_ops.beam.storage import absolute
from mdmf_ops.beam.write import WriteScores
from mdmf_ops.defaults import DEFAULT_ALPHA, PRECISIONS


class ScoredImage(NamedTuple):
    """What a YAML pipeline may filter and write of a row; the columns mean what they do in `mdmf_ops.schema`."""

    image_uri: str
    status: str
    error_code: str | None
    mmd2: float | None
    p_value: float | None
    verdict: str | None
    detector_id: str


class CommittedRun(NamedTuple):
    """A run whose manifest is written."""

    run_id: str
    inputs: int
    scored: int
    failed: int


class ReadAndScore(beam.PTransform):
    """Lists, reads and scores sources; one `ScoredImage` for each image.

    To YAML a transform needs an input unless its name starts with `Read`.

    Args:
        sources: files, folders and globs, local or gs://.
        assets, alpha, device, precision: of the detector, as `mdmf_ops.beam.load.DetectorOptions` has them.
        output: write the rows there too, as one committed run; None writes none.
        run_id: name of that run.
    """

    def __init__(
        self,
        sources: Sequence[str],
        assets: str | None = None,
        alpha: float = DEFAULT_ALPHA,
        device: str = "auto",
        output: str | None = None,
        run_id: str | None = None,
        precision: str = PRECISIONS[0],
    ):
        super().__init__()
        self._sources = sources
        assets = assets and absolute(assets)
        self._scoring = {"assets": assets, "alpha": alpha, "device": device, "precision": precision}
        self._output = output
        # Without an output nothing is written: no folder need be there, the working directory may be `/`.
        self._run = Run.start(os.devnull if output is None else output, run_id)

    def display_data(self) -> dict[str, Any]:
        return {"sources": " ".join(self._sources), "output": self._output or ""}

    def expand(self, pbegin: PBegin):
        refs = pbegin | "Match" >> MatchImages(self._sources, filters=Filters(output=self._run.output))
        rows = refs | "Fetch" >> FetchImages() | "Score" >> ScoreImages(self._run, **self._scoring)
        images = rows | "Columns" >> beam.Map(_scored_image).with_output_types(ScoredImage)
        if self._output is None:
            return images
        manifest = rows | "Write" >> WriteScores(self._run, refs)
        return {
            "output": images,
            "run": manifest | "Run" >> beam.Map(_committed_run).with_output_types(CommittedRun),
        }


def _scored_image(row: Row) -> ScoredImage:
    return ScoredImage(**{name: row[name] for name in ScoredImage._fields})


def _committed_run(manifest: dict[str, Any]) -> CommittedRun:
    status = manifest["counts"]["status"]
    return CommittedRun(manifest["run_id"], manifest["inputs"], status.get("scored", 0), status.get("failed", 0))
