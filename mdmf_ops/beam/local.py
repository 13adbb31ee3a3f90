"""Pub/Sub on the local runner, so that `mdmf stream` on one machine loses nothing either.

Beam's own local read acknowledges a message before it is processed, and lets windows close only when a pull returns.
This one extends each message's lease and leaves the acknowledgement to whoever made the message's row durable. A killed
process has acknowledged nothing that is not in a file: the service delivers the rest again, when the leases end. On
Dataflow none of this runs: the service does it.

Its ParDo copies, examines, sets up and tears down a DoFn for each bundle: with bundles of a few messages that took as
long as scoring small images. This one keeps a step's DoFn from bundle to bundle, as a service does.

Its timers count by a clock that may be set back. Here they go on (`SteadyClock`). Its grouping takes ever longer, the
more windows have closed. Here it does not (`GroupEvaluator`).

Only the bundle-based local runner is touched: the one table in which it looks up how to run a transform, and its clock.
"""

import contextlib
import datetime
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import ClassVar

from apache_beam import ParDo, pvalue
from apache_beam.internal import pickler
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics.cells import DistributionData
from apache_beam.metrics.metricbase import MetricName
from apache_beam.pipeline import AppliedPTransform
from apache_beam.runners.common import DoFnRunner, DoFnState, Receiver
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.direct.transform_evaluator import (
    TransformEvaluatorRegistry,
    _ParDoEvaluator,
    _PubSubReadEvaluator,
    _TaggedReceivers,
)
from apache_beam.runners.direct.util import TransformResult
from apache_beam.runners.direct.watermark_manager import WatermarkManager
from apache_beam.runners.worker import statesampler
from apache_beam.transforms.userstate import is_stateful_dofn
from apache_beam.transforms.window import GlobalWindows, WindowedValue
from apache_beam.utils.counters import CounterFactory
from apache_beam.utils.timestamp import Timestamp
from google.api_core.exceptions import Aborted, DeadlineExceeded, RetryError, ServerError, TooManyRequests
from google.cloud import pubsub_v1

from mdmf_ops.beam.alive import ask_whether_connections_live
from mdmf_ops.beam.clock import SteadyClock
from mdmf_ops.beam.group import GroupEvaluator
from mdmf_ops.text import told

_log = logging.getLogger(__name__)

WAIT_S = 0.2
"""How long a read waits for a first message: as often do windows and timers look at the clock in a quiet stream."""

BATCH_MESSAGES = 32
"""A read takes what has arrived, up to so many, and makes one bundle of them; the detector's batches are cut from it.
They are small when the stream is quiet and full when it is busy."""

WATERMARK_LAG_S = 2.0
"""A message that takes longer from its publisher to here may come after its window has closed, and is then late."""

LEASE_S = 20
"""A killed process's messages are delivered again after this time."""

_MAX_OUTSTANDING = 200_000
"""Messages are outstanding until their window is written. Beyond this many the service holds the rest back."""

_TRANSIENT = (Aborted, RetryError, ServerError, TooManyRequests)
"""Errors of the service that pass."""

_PULL_S = 5.0
_PAUSE_S = 1.0
_FLUSH_S = 0.2
_MAX_IDS = 1000
_REMEMBERED = 100_000
_CLOSING_S = 24 * 3600
DRAIN_S = 120.0
"""How long a drain waits for the last rows. What is not in a file by then is delivered again to the next stream."""


class _Subscription:
    """The one subscription of this process: what has arrived, what is outstanding and what was acknowledged.

    Google's streaming client does the same with more threads. It was tried: the emulator goes on handing messages to a
    client that was killed, for minutes, which no test of a kill and no user on the emulator could bear.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._arrived: queue.Queue = queue.Queue(2 * BATCH_MESSAGES)
        self._outstanding: dict[str, tuple[str, datetime.datetime]] = {}  # ack id, when published, by message id
        self._done: list[str] = []  # ack ids to be handed in
        self._acknowledged: OrderedDict[str, datetime.datetime] = OrderedDict()  # when published, by message id
        self._error: Exception | None = None
        self._threads: list[threading.Thread] = []
        self._drain_ends_s = 0.0
        self._closing = threading.Event()
        self.batch_wait_s = 0.0
        self.draining = threading.Event()

    def open(self, name: str) -> None:
        if not self._threads:
            self._name = name
            self._client = pubsub_v1.SubscriberClient()
            self._threads = [threading.Thread(target=run, daemon=True) for run in (self._pull, self._keep)]
            for thread in self._threads:
                thread.start()

    def _pull(self) -> None:
        while not self.draining.is_set():
            try:
                response = self._client.pull(subscription=self._name, max_messages=BATCH_MESSAGES, timeout=_PULL_S)
                self._extend([received.ack_id for received in response.received_messages])
            except DeadlineExceeded:  # nothing has come
                continue
            except _TRANSIENT as error:
                _log.warning("Pub/Sub: %s", told(str(error)))
                self.draining.wait(_PAUSE_S)
                continue
            except Exception as error:  # raised where the pipeline sees it
                self._error = error
                return
            for received in response.received_messages:
                message_id, published = received.message.message_id, received.message.publish_time
                with self._lock:
                    # An emulator that was started again counts its ids anew.
                    again = self._acknowledged.get(message_id) == published
                    if again:  # the service missed it
                        self._done.append(received.ack_id)
                    else:
                        self._outstanding[message_id] = received.ack_id, published
                if not again:
                    self._arrived.put(received.message)
            while len(self._outstanding) > _MAX_OUTSTANDING and not self.draining.wait(_FLUSH_S):
                pass

    def _keep(self) -> None:
        """Hands in acknowledgements, and extends the leases of what is outstanding."""
        extended_s = time.monotonic()
        while not self._closing.wait(_FLUSH_S):
            try:
                self._flush()
                if time.monotonic() - extended_s > LEASE_S / 3:
                    extended_s = time.monotonic()
                    with self._lock:
                        ids = [ack_id for ack_id, _published in self._outstanding.values()]
                    for start in range(0, len(ids), _MAX_IDS):
                        self._extend(ids[start : start + _MAX_IDS])
            except _TRANSIENT as error:  # a lease that ends meanwhile is a redelivery
                _log.warning("Pub/Sub: %s", told(str(error)))
            except Exception as error:
                self._error = error
                return

    def _extend(self, ack_ids: list[str]) -> None:
        if ack_ids:
            self._client.modify_ack_deadline(
                subscription=self._name, ack_ids=ack_ids, ack_deadline_seconds=LEASE_S, timeout=LEASE_S
            )

    def _flush(self) -> None:
        while self._done:
            ids = self._done[:_MAX_IDS]
            self._client.acknowledge(subscription=self._name, ack_ids=ids, timeout=LEASE_S)
            with self._lock:
                del self._done[: len(ids)]

    def take(self) -> list[pubsub_v1.types.PubsubMessage]:
        """The messages that have arrived, at most a batch; waits a moment for the first, and then for the others.

        Raises:
            Exception: the subscription cannot be read, for good: it is gone, or access is.
        """
        if self._error is not None:
            raise self._error
        taken = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._arrived.get(timeout=WAIT_S))
            full_s = time.monotonic() + self.batch_wait_s
            while len(taken) < BATCH_MESSAGES:
                taken.append(self._arrived.get(timeout=max(0.0, full_s - time.monotonic())))
        return taken

    def acknowledge(self, message_id: str) -> None:
        """Marks a message as dealt with; its acknowledgement is handed in soon."""
        with self._lock:
            found = self._outstanding.pop(message_id, None)
            if found is None:
                return
            ack_id, self._acknowledged[message_id] = found
            self._done.append(ack_id)
            if len(self._acknowledged) > _REMEMBERED:
                self._acknowledged.popitem(last=False)

    def drain(self) -> None:
        """Takes no more messages in; what is in the pipeline goes through it, and its windows close."""
        self._drain_ends_s = time.monotonic() + DRAIN_S
        self.draining.set()

    def is_drained(self) -> bool:
        """Whether every message that was taken in is acknowledged, or the time for that is over."""
        pulling = self._threads[0].is_alive()
        return (not pulling and not self._outstanding) or time.monotonic() > self._drain_ends_s

    def close(self) -> None:
        """Hands in the last acknowledgements."""
        if self._threads:
            self._closing.set()
            self._threads[1].join()
            self._flush()
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


class _ToBundle(Receiver):
    """Takes what a kept DoFn gives, for the bundle that is being made."""

    def receive(self, element: WindowedValue) -> None:
        self.bundle.output(element)


class _KeptParDoEvaluator(_ParDoEvaluator):
    """Runs a bundle through the DoFn that ran the step's bundles before; one that failed is not kept."""

    _kept: ClassVar[dict[AppliedPTransform, tuple[DoFnRunner, _TaggedReceivers]]] = {}

    def start_bundle(self) -> None:
        step = self._applied_ptransform
        kept = self._kept.pop(step, None)
        self._keeps = kept is not None or not (self._side_inputs or is_stateful_dofn(step.transform.dofn))
        if not self._keeps:
            super().start_bundle()
            return
        self.runner, self._tagged_receivers = kept or self._set_up()
        for tag in step.outputs:
            output = pvalue.PCollection(None, tag=tag)
            output.producer = step
            self._tagged_receivers[tag].bundle = bundle = self._evaluation_context.create_bundle(output)
            bundle.tag = tag
        self.runner.start()

    def _set_up(self) -> tuple[DoFnRunner, _TaggedReceivers]:
        step, transform = self._applied_ptransform, self._applied_ptransform.transform
        receivers = _TaggedReceivers(self._evaluation_context)
        receivers.update((tag, _ToBundle()) for tag in step.outputs)
        runner = DoFnRunner(
            pickler.roundtrip(transform.dofn),
            getattr(transform, "args", []),
            getattr(transform, "kwargs", {}),
            [],
            step.inputs[0].windowing,
            tagged_receivers=receivers,
            step_name=step.full_label,
            state=DoFnState(CounterFactory()),
        )
        runner.setup()
        return runner, receivers

    def finish_bundle(self) -> TransformResult:
        if not self._keeps:
            return super().finish_bundle()
        self.runner.finish()
        self._kept[self._applied_ptransform] = self.runner, self._tagged_receivers
        return TransformResult(self, [receiver.bundle for receiver in self._tagged_receivers.values()], [], None, None)


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


def install(batch_wait_s: float) -> None:
    """Makes the local runner of this process read Pub/Sub and keep DoFns so.

    Args:
        batch_wait_s: how long a message waits for others that make up a bundle with it.
    """
    SUBSCRIPTION.batch_wait_s = batch_wait_s
    ask_whether_connections_live()
    TransformEvaluatorRegistry._test_evaluators_overrides |= {
        direct_runner._DirectReadFromPubSub: _ReadEvaluator,
        ParDo: _KeptParDoEvaluator,
        direct_runner._StreamingGroupAlsoByWindow: GroupEvaluator,
    }
    direct_runner.RealClock = SteadyClock
