"""`Once`: of several messages that name one image for one detector, the first."""

import hashlib
from collections.abc import Callable

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from mdmf_ops.beam.image import NAMESPACE, ImageRef, Message

HORIZON_S = 600
BUCKETS = 256
"""Keys are remembered in this many tables, each a state of its own, and so at most this many workers share the work.

Beam's own DeduplicatePerKey keeps a state and a timer for each key. The local runner looks through all of them after
every bundle and frees none; and it drops a duplicate without a word, where here each is counted and acknowledged."""

_PRUNE_EVERY = 64

DUPLICATES = "duplicates"


class Once(beam.PTransform):
    """Lets the first ref of each (URI, generation, detector) pass; the ids of the others' messages leave as
    `duplicates`.

    Two messages are duplicates if they were published within the horizon of each other, in whatever order and however
    late they are delivered. After that much newer messages have gone through, a key is forgotten, and an older
    duplicate gives a second row with the same row_id.

    Args:
        detector_id: tells which detector is current; called on the workers.
        horizon_s: for how long a key is remembered, in seconds of event time.
        buckets: tables of keys. One is best in a single process: a local bundle is cut up by bucket.
    """

    def __init__(self, detector_id: Callable[[], str], horizon_s: float = HORIZON_S, buckets: int = BUCKETS):
        super().__init__()
        self._detector_id = detector_id
        self._horizon_s = horizon_s
        self._buckets = buckets

    def expand(self, refs):
        split = (
            refs
            | "KeyByBucket" >> beam.Map(_with_bucket, self._buckets).with_output_types(tuple[int, ImageRef])
            | "First" >> beam.ParDo(_OnceDoFn(self._detector_id, self._horizon_s)).with_outputs(DUPLICATES, main="refs")
        )
        split.refs.element_type = ImageRef
        return split


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=12).digest()


def _with_bucket(ref: ImageRef, buckets: int) -> tuple[int, ImageRef]:
    return int.from_bytes(_digest(ref.uri, ref.generation)[:4], "big") % buckets, ref


class _OnceDoFn(beam.DoFn):
    """Remembers, of each key, when its first message was published and which message that was."""

    SEEN = ReadModifyWriteStateSpec("seen", PickleCoder())

    def __init__(self, detector_id: Callable[[], str], horizon_s: float):
        self._detector_id = detector_id
        self._horizon_us = int(horizon_s * 1e6)
        self._unique = Metrics.counter(NAMESPACE, "images_received")
        self._duplicates = Metrics.counter(NAMESPACE, "messages_duplicate")

    def process(self, keyed: tuple[int, ImageRef], seen_state=beam.DoFn.StateParam(SEEN)):  # noqa: B008
        _bucket, ref = keyed
        message: Message = ref.message
        seen = seen_state.read() or {}
        key = _digest(ref.uri, ref.generation, self._detector_id())
        first = seen.get(key)
        if first is not None and abs(message.published_us - first[0]) <= self._horizon_us:
            self._duplicates.inc()
            if message.message_id != first[1]:  # a redelivery is acknowledged with its row, not before
                yield TaggedOutput(DUPLICATES, message.message_id)
            return
        seen[key] = (message.published_us, message.message_id)
        if len(seen) % _PRUNE_EVERY == 0:
            newest_us = max(published_us for published_us, _ in seen.values())
            seen = {key: first for key, first in seen.items() if newest_us - first[0] <= self._horizon_us}
        seen_state.write(seen)
        self._unique.inc()
        yield ref
