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

import time
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

from mdmf_ops.beam.stream.alive import ask_whether_connections_live
from mdmf_ops.beam.stream.clock import SteadyClock
from mdmf_ops.beam.stream.group import GroupEvaluator
from mdmf_ops.beam.stream.subscription import SUBSCRIPTION

WATERMARK_LAG_S = 2.0
"""A message that takes longer from its publisher to here may come after its window has closed, and is then late."""

_CLOSING_S = 24 * 3600


class _ReadEvaluator(_PubSubReadEvaluator):
    """Reads bundles until the subscription is drained; then the watermark goes to the end of time.

    Before that, while messages are outstanding, it goes no further than a day ahead: windows close, and what is still
    on its way to them is late, but not so late that it would be dropped.

    While more may be there to be pulled, it goes no further than the messages do: a backlog is not late.
    """

    _holds: ClassVar[dict[AppliedPTransform, Timestamp]] = {}

    def finish_bundle(self) -> TransformResult:
        SUBSCRIPTION.open(self._sub_name)
        _samplers.add(statesampler.get_current_tracker())
        # Asked first: what arrives after a take is taken by the next, however long this thread is kept from going on.
        ended, quiet, oldest_s = SUBSCRIPTION.has_ended(), SUBSCRIPTION.quiet, time.time()
        messages = SUBSCRIPTION.take()
        bundles = []
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
        elif SUBSCRIPTION.is_drained():
            return TransformResult(self, bundles, [], None, {None: WatermarkManager.WATERMARK_POS_INF})
        elif ended:
            oldest_s += _CLOSING_S
        step = self._applied_ptransform
        hold = self._holds.get(step, WatermarkManager.WATERMARK_NEG_INF)
        if messages or ended or quiet:
            self._holds[step] = hold = Timestamp.of(oldest_s - WATERMARK_LAG_S)
        again = self._evaluation_context.create_bundle(pvalue.PBegin(step.transform.pipeline))
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
