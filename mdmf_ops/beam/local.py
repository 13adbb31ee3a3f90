"""Pub/Sub on the local runner, so that `mdmf stream` on one machine loses nothing either.

Beam's own local read acknowledges a message before it is processed, and lets windows close only when a pull returns.
This one reads through Google's streaming client, which extends each message's lease, and leaves the acknowledgement
to whoever made the message's row durable. A killed process has acknowledged nothing that is not in a file: the
service delivers the rest again. On Dataflow none of this runs: the service does it.

Only the bundle-based local runner is touched, through the one table in which it looks up how to run a transform.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator

from apache_beam import pvalue
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics.cells import DistributionData
from apache_beam.metrics.metricbase import MetricName
from apache_beam.runners.direct.direct_runner import _DirectReadFromPubSub
from apache_beam.runners.direct.transform_evaluator import TransformEvaluatorRegistry, _PubSubReadEvaluator
from apache_beam.runners.direct.util import TransformResult
from apache_beam.runners.direct.watermark_manager import WatermarkManager
from apache_beam.runners.worker import statesampler
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from google.cloud import pubsub_v1

WAIT_S = 0.2
"""How long a read waits for a first message: as often do windows and timers look at the clock in a quiet stream."""

BATCH_MESSAGES = 32
"""A read takes what has arrived, up to so many: one bundle, and so one batch for the detector. Batches are small when
the stream is quiet and full when it is busy."""

WATERMARK_LAG_S = 2.0
"""A message that takes longer from its publisher to here may come after its window has closed, and is then late."""

_OUTSTANDING = pubsub_v1.types.FlowControl(
    max_messages=100_000, max_bytes=1 << 30, max_lease_duration=24 * 3600, max_duration_per_lease_extension=60
)
"""Messages are outstanding until their window is written. Beyond this many the service holds the rest back."""

_REMEMBERED = 100_000
_CLOSING_S = 24 * 3600
DRAIN_S = 120.0
"""How long a drain waits for the last rows. What is not in a file by then is delivered again to the next stream."""


class _Subscription:
    """The one subscription of this process: its outstanding messages and what was acknowledged of them."""

    def __init__(self):
        self._lock = threading.Lock()
        self._arrived: queue.SimpleQueue = queue.SimpleQueue()
        self._outstanding: dict[str, pubsub_v1.subscriber.message.Message] = {}
        self._acknowledged: OrderedDict[str, None] = OrderedDict()
        self._pull: pubsub_v1.subscriber.futures.StreamingPullFuture | None = None
        self._client: pubsub_v1.SubscriberClient | None = None
        self._drain_ends_s = 0.0
        self.draining = threading.Event()

    def open(self, name: str) -> None:
        with self._lock:
            if self._pull is None:
                self._client = pubsub_v1.SubscriberClient()
                self._pull = self._client.subscribe(name, self._arrive, flow_control=_OUTSTANDING)

    def _arrive(self, message) -> None:
        with self._lock:
            again = message.message_id in self._acknowledged
            if not again:
                self._outstanding[message.message_id] = message
        if again:  # the service missed it
            message.ack()
        else:
            self._arrived.put(message)

    def take(self) -> list:
        """The messages that have arrived, at most a batch; waits a moment for the first.

        Raises:
            google.api_core.exceptions.GoogleAPICallError: the subscription cannot be read, for good.
        """
        if self._pull.done() and not self.draining.is_set():
            self._pull.result()
        taken = []
        try:
            taken.append(self._arrived.get(timeout=WAIT_S))
            while len(taken) < BATCH_MESSAGES:
                taken.append(self._arrived.get_nowait())
        except queue.Empty:
            pass
        return taken

    def acknowledge(self, message_id: str) -> None:
        with self._lock:
            message = self._outstanding.pop(message_id, None)
            if message is None:
                return
            self._acknowledged[message_id] = None
            if len(self._acknowledged) > _REMEMBERED:
                self._acknowledged.popitem(last=False)
        message.ack()

    def drain(self) -> None:
        """Takes no more messages in; what is in the pipeline goes through it, and its windows close."""
        self._drain_ends_s = time.monotonic() + DRAIN_S
        self.draining.set()
        if self._pull is not None:
            self._pull.cancel()

    def is_drained(self) -> bool:
        """Whether every message that was taken in is acknowledged, or the time for that is over."""
        return not self._outstanding or time.monotonic() > self._drain_ends_s

    def close(self) -> None:
        """Hands in the last acknowledgements."""
        if self._pull is not None:
            self._pull.cancel()
            self._pull.result(timeout=30)
            self._client.close()


SUBSCRIPTION = _Subscription()


def acknowledge(message_id: str) -> None:
    """Tells the service that a message is dealt with: its row is in a file, or it needs none."""
    SUBSCRIPTION.acknowledge(message_id)


class _ReadEvaluator(_PubSubReadEvaluator):
    """Reads bundles until the subscription is drained; then the watermark goes to the end of time.

    Before that, while messages are outstanding, it goes no further than a day ahead: windows close, and what is still
    on its way to them is late, but not so late that it would be dropped.
    """

    def finish_bundle(self) -> TransformResult:
        SUBSCRIPTION.open(self._sub_name)
        _samplers.add(statesampler.get_current_tracker())
        draining = SUBSCRIPTION.draining.is_set()
        messages = SUBSCRIPTION.take()
        bundles = []
        oldest_s = time.time()
        if messages:
            bundle = self._evaluation_context.create_bundle(next(iter(self._outputs)))
            for message in messages:
                published_s = message.publish_time.timestamp()
                oldest_s = min(oldest_s, published_s)
                element = PubsubMessage(
                    message.data, dict(message.attributes), message.message_id, message.publish_time
                )
                bundle.output(GlobalWindows.windowed_value(element, timestamp=Timestamp.of(published_s)))
            bundles.append(bundle)
        if draining and not messages:
            if SUBSCRIPTION.is_drained():
                return TransformResult(self, bundles, [], None, {None: WatermarkManager.WATERMARK_POS_INF})
            oldest_s += _CLOSING_S
        again = self._evaluation_context.create_bundle(pvalue.PBegin(self._applied_ptransform.transform.pipeline))
        hold = Timestamp.of(oldest_s - WATERMARK_LAG_S)
        return TransformResult(self, bundles, [again], None, {None: hold})


_samplers: set[statesampler.StateSampler] = set()
"""Of the threads that run bundles; there is one."""


def metrics() -> Iterator[tuple[MetricName, int | DistributionData]]:
    """Every counter and distribution of this process so far.

    The bundle-based runner's own results stand still after the first bundle of a step: it makes a container of metrics
    for each bundle, and the sampler goes on counting into the first one. That one therefore holds the whole count.
    """
    states = [state for sampler in _samplers for state in list(sampler._states_by_name.values())]
    containers = {id(state.metrics_container): state.metrics_container for state in states if state.metrics_container}
    for container in containers.values():
        updates = container.get_cumulative()
        for values in (updates.counters, updates.distributions):
            yield from ((key.metric, value) for key, value in values.items())


def install() -> None:
    """Makes the local runner of this process read Pub/Sub so."""
    TransformEvaluatorRegistry._test_evaluators_overrides[_DirectReadFromPubSub] = _ReadEvaluator
