"""`ScoreImages`: images to rows, through RunInference around one detector per worker process."""

import datetime
import hashlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from mdmf_ops.beam.image import NAMESPACE, Image
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.beam.run import Run
from mdmf_ops.defaults import DEFAULT_ALPHA, PRECISIONS
from mdmf_ops.detector import Score, Scorer
from mdmf_ops.detector.detector import BANK_FILE, SIGNATURE_FILE
from mdmf_ops.detector.scorer import Terms
from mdmf_ops.detector.worker import be_one_of_several
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.heap import keep_free_memory
from mdmf_ops.images.decode import Limits
from mdmf_ops.progress import Progress
from mdmf_ops.provenance import read_declaration
from mdmf_ops.schema import SCHEMA, SCHEMA_VERSION

Row = dict[str, Any]

_BATCH_SIZE = 32
_BATCH_UNIT_BYTES = 2 << 20
"""A batch waits for its images in memory, encoded. An image counts once for each unit of its size, so that a batch
holds at most 32 images and 64 MiB, plus one image. ModelHandler's own `max_batch_weight` is no way to say so: in
Beam 2.77 BatchElements refuses the argument that it becomes."""


class ScoreImages(beam.PTransform):
    """Scores images into rows of `mdmf_ops.schema.SCHEMA`: one row for each, scored or failed.

    Args:
        run: which scan the rows belong to.
        assets, alpha, device, precision, limits: of the detector, as `mdmf_ops.beam.load.DetectorOptions` has them.
        trust_anchors: certificates in PEM that make a signer of C2PA manifests trusted; see `mdmf_ops.provenance`.
        progress: where to count what was scored, for a terminal on this machine.
    """

    def __init__(
        self,
        run: Run,
        *,
        assets: str | None = None,
        alpha: float = DEFAULT_ALPHA,
        device: str = "auto",
        precision: str = PRECISIONS[0],
        limits: Limits | None = None,
        trust_anchors: str | None = None,
        progress: Progress | None = None,
    ):
        super().__init__()
        options = DetectorOptions(assets, alpha, device, precision, limits or Limits())
        self._handler = DetectorHandler(run, options, progress, trust_anchors)
        self._shown = {"run_id": run.run_id, **options.shown()}

    def display_data(self) -> dict[str, Any]:
        return self._shown

    def expand(self, images: beam.PCollection[Image]) -> beam.PCollection[Row]:
        return images | "Score" >> RunInference(self._handler).with_output_types(Row)


class DetectorHandler(ModelHandler[Image, Row, Scorer]):
    """Loads the detector once per worker process, or once for all that share a GPU, and turns each image into a row.

    A failed image never fails its batch: RunInference would dead-letter all of it.
    """

    def __init__(
        self,
        run: Run,
        options: DetectorOptions,
        progress: Progress | None = None,
        trust_anchors: str | None = None,
    ):
        super().__init__(
            # A fixed size: with a growing one, an image of more than one unit would close an empty batch.
            min_batch_size=_BATCH_SIZE,
            max_batch_size=_BATCH_SIZE,
            element_size_fn=_batch_units,
        )
        self._run = run
        self._options = options
        self._trust_anchors = trust_anchors
        self._progress = progress

    def load_model(self) -> Scorer:
        be_one_of_several()
        return self._options.load(self._options.assets)

    def run_inference(
        self, batch: Sequence[Image], model: Scorer, inference_args: dict[str, Any] | None = None
    ) -> list[Row]:
        keep_free_memory()  # the end of a bundle gives it back
        scores = model.scores([image.content for image in batch if image.error is None])
        rows = []
        for image in batch:
            result = image.error or next(scores)
            _count(result, model.terms.device)
            rows.append(make_row(image, result, model, self._run, self._trust_anchors))
            if self._progress:
                self._progress.add("done")
        return rows

    def get_num_bytes(self, batch: Sequence[Image]) -> int:
        return sum(map(_content_bytes, batch))

    def get_metrics_namespace(self) -> str:
        return NAMESPACE


def _content_bytes(image: Image) -> int:
    return len(image.content or b"")


def _batch_units(image: Image) -> int:
    return min(1 + _content_bytes(image) // _BATCH_UNIT_BYTES, _BATCH_SIZE)


def _count(result: Score | ImageError, device: str) -> None:
    """Metrics of one image, counted where the work happens."""
    if isinstance(result, ImageError):
        Metrics.counter(NAMESPACE, f"images_failed_{result.code.value}").inc()
    else:
        Metrics.counter(NAMESPACE, "images_scored").inc()
        Metrics.counter(NAMESPACE, f"images_scored_on_{device.split()[0]}").inc()
        Metrics.distribution(NAMESPACE, "decode_us").update(result.decode_us)
        Metrics.distribution(NAMESPACE, "score_us").update(result.score_us)


_DECODER_LOST = (ErrorCode.DECODER_CRASHED, ErrorCode.TIMEOUT, ErrorCode.OUT_OF_MEMORY)
"""What a file did to a decoder, in a process of its own, it may do to a reader of its metadata, which has none."""


def make_row(
    image: Image, result: Score | ImageError, detector: Scorer, run: Run, trust_anchors: str | None = None
) -> Row:
    """The row of one image, every field of the schema set."""
    ref, content = image.ref, image.content
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    assets = detector.assets
    what = sha256 or f"{ref.uri}#{ref.generation}"
    row: Row = dict.fromkeys(SCHEMA.names) | {
        "row_id": hashlib.sha256(f"{what}\n{assets.detector_id}".encode()).hexdigest(),
        "run_id": run.run_id,
        "scanned_at": datetime.datetime.now(datetime.timezone.utc),
        "image_uri": ref.uri,
        "image_generation": ref.generation,
        "image_bytes": ref.size_bytes if content is None else len(content),
        "image_modified_at": ref.modified_at,
        "image_sha256": sha256,
        "alpha": detector.alpha,
        "detector_id": assets.detector_id,
        "backbone": assets.manifest["backbone"]["name"],
        "signature_sha256": assets.sha256(SIGNATURE_FILE),
        "bank_sha256": assets.sha256(BANK_FILE),
        "schema_version": SCHEMA_VERSION,
        "attributes": list(ref.attributes.items()),
    }
    if content is not None and not (isinstance(result, ImageError) and result.code in _DECODER_LOST):
        row |= _declared(content, trust_anchors)
    if isinstance(result, ImageError):
        return row | {"status": "failed", "error_code": result.code.value, "error_message": result.message}
    return row | _scored(result, detector.terms)


def _declared(content: bytes, trust_anchors: str | None) -> Row:
    """What the file says of itself; of most images that could not be decoded too."""
    declaration = read_declaration(content, trust_anchors)
    Metrics.distribution(NAMESPACE, "declared_us").update(declaration.read_us)
    signature = declaration.c2pa_signature
    return {
        "declared_source": declaration.source,
        "declared_by": declaration.by,
        "declared_software": declaration.software,
        "c2pa_signature": signature and signature.value,
        "declared_us": declaration.read_us,
    }


def _scored(score: Score, terms: Terms) -> Row:
    plan = score.plan
    return {
        "status": "scored",
        "image_format": score.image_format,
        "width_px": score.width_px,
        "height_px": score.height_px,
        "jpeg_quality": score.jpeg_quality,
        "mmd2": score.mmd2,
        "p_value": score.p_value,
        "verdict": score.verdict.value,
        "grid_rows": plan.grid_rows,
        "grid_cols": plan.grid_cols,
        "patch_px": plan.patch_px,
        "tiles": [
            {"top_px": top, "left_px": left, "height_px": plan.height_px, "width_px": plan.width_px}
            for top, left in plan.origins
        ],
        "patch_evidence": score.evidence,
        "calibration_id": score.calibration_id,
        "device": terms.device,
        "precision": terms.precision,
        "decode_us": score.decode_us,
        "score_us": score.score_us,
    }
