"""`ReadMessages` and `ScoreMessages`: a stream's messages to refs, and their images to rows."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import TaggedOutput

from mdmf_ops.beam.image import NAMESPACE, Image, ImageRef, Message
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.score import DetectorHandler, Row
from mdmf_ops.beam.stream.current import CurrentDetector, current_detector
from mdmf_ops.beam.stream.messages import parse_message
from mdmf_ops.defaults import BATCH_WAIT_S
from mdmf_ops.detector.worker import be_one_of_several

_BATCH_SIZE = 16
"""Batches across bundles are counted in images, not in bytes: at Pub/Sub's 10 MB a message, 160 MB at most of those."""

SKIPPED = "skipped"


class Scored(NamedTuple):
    """A row, and the ref whose message asked for it."""

    ref: ImageRef
    row: Row


class ReadMessages(beam.PTransform):
    """Parses PubsubMessage elements into refs; the ids of messages that name no new image leave as `skipped`.

    Args:
        local_root: folder under which a message may name local files; None refuses all of them.
    """

    def __init__(self, local_root: str | None = None):
        super().__init__()
        self._local_root = local_root

    def display_data(self) -> dict[str, Any]:
        return {"local_root": self._local_root or "none"}

    def expand(self, messages: beam.PCollection[PubsubMessage]):
        parse = beam.ParDo(_ParseDoFn(self._local_root)).with_output_types(ImageRef, **{SKIPPED: str})
        return messages | "Parse" >> parse.with_outputs(SKIPPED, main="refs")


class _ParseDoFn(beam.DoFn):
    def __init__(self, local_root: str | None):
        self._local_root = local_root
        self._received = Metrics.counter(NAMESPACE, "messages_received")
        self._skipped = Metrics.counter(NAMESPACE, "messages_skipped")
        self._age_ms = Metrics.distribution(NAMESPACE, "backlog_age_ms")

    def process(self, received: PubsubMessage, published=beam.DoFn.TimestampParam) -> Iterator[ImageRef]:
        message = Message(received.data or b"", received.attributes or {}, received.message_id or "", published.micros)
        self._received.inc()
        self._age_ms.update(age_ms(message))
        ref = parse_message(message, self._local_root)
        if ref is None:
            self._skipped.inc()
            yield TaggedOutput(SKIPPED, message.message_id)
        else:
            yield ref


def age_ms(message: Message) -> int:
    """Milliseconds since a message was published; 0 where the clocks disagree."""
    return max(0, int(time.time() * 1000) - message.published_us // 1000)


class ScoreMessages(beam.PTransform):
    """Scores the images of a stream into `Scored`, in batches that form across bundles.

    Put it behind the windowing: batches take their window's timestamp, and so hold the watermark until each of their
    rows is there.

    Args:
        stream: which scan the rows belong to.
        detector: which detector, perhaps through a pointer.
        batch_wait_s: how long an image waits at most for others. None makes batches of what is in one bundle: right
            for the local runner, which forms bundles so, and forgets under which key an image waits.
        trust_anchors: as of `ScoreImages`.
    """

    def __init__(
        self,
        stream: Run,
        detector: DetectorOptions,
        batch_wait_s: float | None = BATCH_WAIT_S,
        trust_anchors: str | None = None,
    ):
        super().__init__()
        self._handler = _LiveHandler(stream, detector, batch_wait_s, trust_anchors)
        wait = "within a bundle" if batch_wait_s is None else batch_wait_s
        self._shown = {"stream_id": stream.run_id, "batch_wait_s": wait, **detector.shown()}

    def display_data(self) -> dict[str, Any]:
        return self._shown

    def expand(self, images: beam.PCollection[Image]) -> beam.PCollection[Scored]:
        return images | "Score" >> RunInference(self._handler).with_output_types(Scored)


class _LiveHandler(DetectorHandler):
    """Scores each batch with the detector that is current when it comes."""

    def __init__(
        self,
        stream: Run,
        options: DetectorOptions,
        batch_wait_s: float | None,
        trust_anchors: str | None = None,
    ):
        super().__init__(stream, options, trust_anchors=trust_anchors)
        self._batch_wait_s = batch_wait_s

    def batch_elements_kwargs(self) -> dict[str, Any]:
        size = {"min_batch_size": _BATCH_SIZE, "max_batch_size": _BATCH_SIZE}
        return size if self._batch_wait_s is None else size | {"max_batch_duration_secs": self._batch_wait_s}

    def load_model(self) -> CurrentDetector:
        be_one_of_several()
        return current_detector(self._options)

    def run_inference(
        self, batch: Sequence[Image], model: CurrentDetector, inference_args: dict[str, Any] | None = None
    ) -> list[Scored]:
        rows = super().run_inference(batch, model.get(), inference_args)
        scored = [Scored(image.ref, row) for image, row in zip(batch, rows, strict=True)]
        for ref, row in scored:
            Metrics.distribution(NAMESPACE, "publish_to_row_ms").update(age_ms(ref.message))
            if row["verdict"]:
                Metrics.counter(NAMESPACE, f"verdict_{row['verdict']}").inc()
        return scored
