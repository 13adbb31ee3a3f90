"""`Once`: of several messages that name one image for one detector, the first."""

import hashlib
import uuid
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from mdmf_ops.beam.image import NAMESPACE, ImageRef
from mdmf_ops.defaults import HORIZON_S

_BUCKETS = 256
"""Keys are remembered in this many tables, each a state of its own, and so at most this many workers share the work.

Beam's own DeduplicatePerKey keeps a state and a timer for each key, and drops a duplicate without a word, where here
each is counted and acknowledged."""

_PRUNE_EVERY = 64

DUPLICATES = "duplicates"

Seen = dict[bytes, int]
"""Of each key, when the newest message that passed was published, in µs."""


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
    """What is a duplicate, and what is forgotten.

    A redelivery is one too: on the local runner none comes here before the row of its message is in a file.
    """

    def __init__(self, detector_id: Callable[[], str], horizon_s: float):
        self._detector_id = detector_id
        self._horizon_us = int(horizon_s * 1e6)
        self._unique = Metrics.counter(NAMESPACE, "images_received")
        self._duplicates = Metrics.counter(NAMESPACE, "messages_duplicate")

    def pass_first(self, ref: ImageRef, seen: MutableMapping[bytes, int]) -> Iterator[ImageRef]:
        """Gives the ref if it is the first of its key, else its message's id as a duplicate; updates `seen`."""
        message = ref.message
        # What is published again from the error topic is asked for anew, and names the message it was.
        again = message.attributes.get("mdmf_message_id", "")
        key = _digest(ref.uri, ref.generation, self._detector_id(), again)
        newest_us = seen.get(key)
        if newest_us is not None and abs(message.published_us - newest_us) <= self._horizon_us:
            self._duplicates.inc()
            yield TaggedOutput(DUPLICATES, message.message_id)
            return
        seen[key] = max(message.published_us, newest_us or 0)
        self._unique.inc()
        yield ref

    def prune(self, seen: Seen, before: int) -> None:
        """Now and then, as `seen` grows from `before` keys, forgets what is older than the newest by the horizon."""
        if len(seen) // _PRUNE_EVERY == before // _PRUNE_EVERY:
            return
        oldest_us = max(seen.values()) - self._horizon_us
        for key in [key for key, published_us in seen.items() if published_us < oldest_us]:
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
        before = len(seen)
        yield from self._memory.pass_first(keyed[1], seen)
        self._memory.prune(seen, before)
        seen_state.write(seen)


_TABLES: defaultdict[str, Seen] = defaultdict(dict)
"""Of this process, by transform: the local runner makes a DoFn anew after a bundle that failed, and Beam's own Shared
keeps only what was asked for last."""


class _InProcessDoFn(beam.DoFn):
    def __init__(self, memory: _Memory):
        self._memory = memory
        self._name = uuid.uuid4().hex

    def start_bundle(self) -> None:
        # Apart until the bundle is done: one that failed is tried again, and must not find its own messages, which
        # would be acknowledged without a row.
        self._seen = ChainMap({}, _TABLES[self._name])

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        return self._memory.pass_first(ref, self._seen)

    def finish_bundle(self) -> None:
        fresh, table = self._seen.maps
        before = len(table)
        table.update(fresh)
        self._memory.prune(table, before)
