"""`Once`: of several messages that name one image for one detector, the first."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from mdmf_ops.beam.image import NAMESPACE, ImageRef

HORIZON_S = 600

_BUCKETS = 256
"""Keys are remembered in this many tables, each a state of its own, and so at most this many workers share the work.

Beam's own DeduplicatePerKey keeps a state and a timer for each key, and drops a duplicate without a word, where here
each is counted and acknowledged."""

_PRUNE_EVERY = 64

DUPLICATES = "duplicates"

Seen = dict[bytes, tuple[int, str]]
"""Of each key, when its first message was published, in µs, and which message that was."""


class Once(beam.PTransform):
    """Lets the first ref of each (URI, generation, detector) pass; the ids of the others' messages leave as
    `duplicates`. One that is published again from the error topic is no duplicate of what it was.

    Two messages are duplicates if they were published within the horizon of each other, in whatever order and however
    late they are delivered. After that much newer messages have gone through, a key is forgotten, and an older
    duplicate gives a second row with the same row_id.

    Args:
        detector_id: tells which detector is current; called on the workers.
        horizon_s: for how long a key is remembered, in seconds of event time.
        in_process: remember in this process, and not in the runner's state. The local runner is one process; it cuts
            bundles up by key, and writes and reads a state as a whole for each message.
    """

    def __init__(self, detector_id: Callable[[], str], horizon_s: float = HORIZON_S, *, in_process: bool = False):
        super().__init__()
        self._memory = _Memory(detector_id, horizon_s)
        self._horizon_s = horizon_s
        self._in_process = in_process

    def display_data(self) -> dict[str, Any]:
        return {"horizon_s": self._horizon_s, "in_process": self._in_process}

    def expand(self, refs: beam.PCollection[ImageRef]):
        if self._in_process:
            first = beam.ParDo(_InProcessDoFn(self._memory))
        else:
            refs = refs | "KeyByBucket" >> beam.Map(_with_bucket).with_output_types(tuple[int, ImageRef])
            first = beam.ParDo(_InStateDoFn(self._memory))
        first = first.with_output_types(ImageRef, **{DUPLICATES: str})
        return refs | "First" >> first.with_outputs(DUPLICATES, main="refs")


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=12).digest()


def _with_bucket(ref: ImageRef) -> tuple[int, ImageRef]:
    return int.from_bytes(_digest(ref.uri, ref.generation)[:4], "big") % _BUCKETS, ref


class _Memory:
    """What is a duplicate, and what is forgotten."""

    def __init__(self, detector_id: Callable[[], str], horizon_s: float):
        self._detector_id = detector_id
        self._horizon_us = int(horizon_s * 1e6)
        self._unique = Metrics.counter(NAMESPACE, "images_received")
        self._duplicates = Metrics.counter(NAMESPACE, "messages_duplicate")

    def pass_first(self, ref: ImageRef, seen: Seen) -> Iterator[ImageRef]:
        """Gives the ref if it is the first of its key, else its message's id as a duplicate; updates `seen`."""
        message = ref.message
        # What is published again from the error topic is asked for anew, and names the message it was.
        again = message.attributes.get("mdmf_message_id", "")
        key = _digest(ref.uri, ref.generation, self._detector_id(), again)
        first = seen.get(key)
        if first is not None and abs(message.published_us - first[0]) <= self._horizon_us:
            self._duplicates.inc()
            if message.message_id != first[1]:  # a redelivery is acknowledged with its row, not before
                yield TaggedOutput(DUPLICATES, message.message_id)
            return
        seen[key] = (message.published_us, message.message_id)
        if len(seen) % _PRUNE_EVERY == 0:
            self._prune(seen)
        self._unique.inc()
        yield ref

    def _prune(self, seen: Seen) -> None:
        oldest_us = max(published_us for published_us, _ in seen.values()) - self._horizon_us
        for key in [key for key, (published_us, _) in seen.items() if published_us < oldest_us]:
            del seen[key]


class _InStateDoFn(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", PickleCoder())

    def __init__(self, memory: _Memory):
        self._memory = memory

    def process(
        self,
        keyed: tuple[int, ImageRef],
        seen_state=beam.DoFn.StateParam(SEEN),  # noqa: B008
    ) -> Iterator[ImageRef]:
        seen = seen_state.read() or {}
        yield from self._memory.pass_first(keyed[1], seen)
        seen_state.write(seen)


_TABLES: dict[str, Seen] = {}
"""Of this process, by transform: the local runner makes a DoFn anew after a bundle that failed, and Beam's own Shared
keeps only what was asked for last."""


class _InProcessDoFn(beam.DoFn):
    def __init__(self, memory: _Memory):
        self._memory = memory
        self._name = uuid.uuid4().hex

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        return self._memory.pass_first(ref, _TABLES.setdefault(self._name, {}))
