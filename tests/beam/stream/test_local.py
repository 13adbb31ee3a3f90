"""The local runner: windows close when what belongs to them is there, and a step's DoFn is kept."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import apache_beam as beam
import grpc
import pytest
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.direct.transform_evaluator import TransformEvaluatorRegistry
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import WindowedValue
from apache_beam.utils.windowed_value import PaneInfoTiming
from faults import TcpProxy
from google.cloud import pubsub_v1
from pubsub import Topic, wait_for

from mdmf_ops.beam.stream import local, subscription
from mdmf_ops.beam.stream.local import WATERMARK_LAG_S, _KeptParDoEvaluator
from mdmf_ops.beam.stream.windows import Windows


class _Note(beam.DoFn):
    """Notes how late each pane is, and which messages are in it, and acknowledges them."""

    panes: ClassVar[list[tuple[str, list[bytes]]]] = []

    def process(self, keyed, pane=beam.DoFn.PaneInfoParam) -> None:
        messages = list(keyed[1])
        self.panes.append((PaneInfoTiming.to_string(pane.timing), sorted(message.data for message in messages)))
        for message in messages:
            local.SUBSCRIPTION.acknowledge(message.message_id)

    @classmethod
    def data(cls) -> list[bytes]:
        return sorted(data for _timing, found in cls.panes for data in found)


@pytest.fixture
def read(monkeypatch):
    """Reads a subscription on the local runner into panes; it is drained at the end."""
    monkeypatch.setattr(TransformEvaluatorRegistry, "_test_evaluators_overrides", {})
    monkeypatch.setattr(direct_runner, "RealClock", direct_runner.RealClock)
    monkeypatch.setattr(grpc, "insecure_channel", grpc.insecure_channel)
    monkeypatch.setattr(local, "SUBSCRIPTION", subscription._Subscription())
    monkeypatch.setattr(_Note, "panes", [])
    local.install(0.0)

    @contextlib.contextmanager
    def reading(topic: Topic, window_s: int, step: beam.DoFn | None = None) -> Iterator[None]:
        options = PipelineOptions([], streaming=True)
        pipeline = beam.Pipeline(direct_runner.BundleBasedDirectRunner(), options)
        messages = pipeline | ReadFromPubSub(subscription=topic.subscription, with_attributes=True)
        messages = messages | "Step" >> beam.ParDo(step) if step else messages
        windowed = messages | beam.WithKeys(0) | Windows(window_s).into()
        _ = windowed | beam.GroupByKey() | beam.ParDo(_Note())
        result = pipeline.run()
        try:
            yield
        finally:
            local.SUBSCRIPTION.drain()
            result.wait_until_finish()
            local.SUBSCRIPTION.close()

    return reading


def after(second: float) -> None:
    wait_for(lambda: time.time() > second, 60, "a time of day")


class _Pulls:
    """The pulls of this process, each of which has as much time as the test needs it to have.

    Attributes:
        sent: what is to come. While it does, a pull waits for it: one that is given up in between is taken for silence.
        hopeless: nothing can come now, and pulls are soon given up.
        timeout_s: of the latest pull.
    """

    def __init__(self, monkeypatch):
        self.sent: list[bytes] = []
        self.hopeless = False
        self.timeout_s = 0.0
        self._came: set[str] = set()
        self._go, self._waits = threading.Event(), threading.Event()
        self._go.set()
        pull = pubsub_v1.SubscriberClient.pull

        def timed(client, **asked):
            self._waits.set()
            self._go.wait()
            self.timeout_s = 60.0 if len(self._came) < len(self.sent) and not self.hopeless else 1.0
            response = pull(client, **asked | {"timeout": self.timeout_s})
            self._came.update(received.message.message_id for received in response.received_messages)
            return response

        monkeypatch.setattr(pubsub_v1.SubscriberClient, "pull", timed)

    @contextlib.contextmanager
    def held_back(self, topic: Topic) -> Iterator[None]:
        """No pull is under way, and the emulator knows it: to one that is cut it may still give messages."""
        self._go.clear()
        self._waits.clear()
        try:
            assert self._waits.wait(60), "the pull under way does not end"
            # On the connection on which it was told of the last pull's end, and after that.
            local.SUBSCRIPTION._client.get_subscription(subscription=topic.subscription)
            yield
        finally:
            self._go.set()


def test_what_waits_behind_a_slow_link_or_an_outage_is_not_late(emulator, monkeypatch, read):
    monkeypatch.setattr(subscription, "_PAUSE_S", 0.1)
    topic, pulls = Topic("local-backlog"), _Pulls(monkeypatch)

    def publish(name: bytes, count: int) -> None:
        data = [b"%s %03d" % (name, i) + b"." * 600 for i in range(count)]
        for future in [topic.publish(one) for one in data]:
            future.result()
        pulls.sent.extend(data)

    def wait_for_all(what: str) -> None:
        wait_for(lambda: len(_Note.data()) == len(pulls.sent), 60, what)

    publish(b"first", 64)
    after(int(time.time()) + 1)
    publish(b"second", 64)
    after(time.time() + 1 + WATERMARK_LAG_S)  # the clock alone would have closed both windows
    with TcpProxy(emulator) as proxy:
        proxy.bytes_per_s = 60_000  # a pull takes longer than a read waits
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", proxy.address)
        with read(topic, 1):
            wait_for_all("the backlog")
            proxy.bytes_per_s = None
            for outage in ("refuses", "silent"):
                with pulls.held_back(topic):
                    pulls.hopeless = True
                    setattr(proxy, outage, True)
                    proxy.cut()
                wait_for(lambda: not local.SUBSCRIPTION.quiet, 30, "the outage to be noticed")
                publish(outage.encode(), 64)
                after(time.time() + 1 + WATERMARK_LAG_S)
                pulls.hopeless = False
                wait_for(lambda: pulls.timeout_s > 1, 30, "a pull with time enough for an answer")
                setattr(proxy, outage, False)
                proxy.cut()
                wait_for_all(f"what came while it {outage}")
    assert _Note.data() == sorted(pulls.sent)
    late = [(timing, len(found)) for timing, found in _Note.panes if found and timing != "ON_TIME"]
    assert late == []


def test_what_the_last_pull_of_a_drain_brings_is_not_late(emulator, monkeypatch, read):
    pull, last_pull_is_on_its_way = pubsub_v1.SubscriberClient.pull, threading.Event()

    def noted(self, **asked):
        if local.SUBSCRIPTION._outstanding:
            last_pull_is_on_its_way.set()
        return pull(self, **asked)

    monkeypatch.setattr(pubsub_v1.SubscriberClient, "pull", noted)
    monkeypatch.setattr(subscription, "_PULL_S", 60.0)  # it ends with a message, whenever that comes
    topic = Topic("local-trickle")
    with read(topic, 3600):
        topic.publish(b"before").result()
        assert last_pull_is_on_its_way.wait(30), "the first message did not come"
        local.SUBSCRIPTION.drain()
        after(time.time() + 4 * subscription.WAIT_S)  # nothing comes for some reads, and a pull is still on its way
        topic.publish(b"amid").result()
    assert _Note.data() == [b"amid", b"before"]
    assert {timing for timing, found in _Note.panes if found} == {"ON_TIME"}  # two panes, where an hour ends between


def test_what_comes_while_a_read_that_found_nothing_is_kept_from_going_on_is_not_late(emulator, monkeypatch, read):
    monkeypatch.setattr(subscription, "_PULL_S", 0.5)
    monkeypatch.setattr(local, "WATERMARK_LAG_S", 0.1)
    take, found_nothing, go_on = subscription._Subscription.take, threading.Event(), threading.Event()

    def held_up(self):
        messages = take(self)
        if self.quiet and not found_nothing.is_set():
            assert not messages
            found_nothing.set()
            go_on.wait(60)
        return messages

    monkeypatch.setattr(subscription._Subscription, "take", held_up)
    topic = Topic("local-held-up")
    with read(topic, 1):
        assert found_nothing.wait(60), "no read in silence"
        topic.publish(b"meanwhile").result()
        after(time.time() + 1.2)  # by now its window has closed
        wait_for(lambda: local.SUBSCRIPTION.quiet and not local.SUBSCRIPTION._arrived.empty(), 30, "the message")
        go_on.set()
        wait_for(_Note.data, 30, "its pane")
    assert [pane for pane in _Note.panes if pane[1]] == [("ON_TIME", [b"meanwhile"])]


class _Wait(beam.DoFn):
    """Waits at the first message until it is let go."""

    passed: ClassVar[list[bytes]] = []
    go = threading.Event()

    def process(self, message):
        self.passed.append(message.data)
        self.go.wait(60)
        yield message


def test_what_still_waits_when_the_time_for_a_drain_is_over_is_left_to_the_next_stream(
    emulator, monkeypatch, read, caplog
):
    caplog.set_level(logging.WARNING, "mdmf_ops")
    monkeypatch.setattr(subscription, "DRAIN_S", 0.0)
    monkeypatch.setattr(_Wait, "passed", [])
    monkeypatch.setattr(_Wait, "go", threading.Event())
    topic = Topic("local-overdue")
    sent = [b"%03d" % i for i in range(3 * subscription.BATCH_MESSAGES)]
    for future in [topic.publish(data) for data in sent]:
        future.result()
    with read(topic, 3600, _Wait()):
        wait_for(lambda: _Wait.passed and local.SUBSCRIPTION._arrived.full(), 60, "more than a batch")
        local.SUBSCRIPTION.drain()
        _Wait.go.set()
    written = _Note.data()  # of the batch that was in the pipeline
    assert written == sorted(_Wait.passed) and 0 < len(written) <= subscription.BATCH_MESSAGES
    assert f"{len(sent) - len(written)} messages are in no file yet" in caplog.text


class _TwoOutputs(beam.DoFn):
    """Gives even numbers, and odd ones as `odd`; what waits leaves with its bundle. Seven fails the first time."""

    made, failed = 0, False

    def setup(self) -> None:
        _TwoOutputs.made += 1

    def start_bundle(self) -> None:
        self._waiting: list = []

    def process(self, number, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
        yield beam.pvalue.TaggedOutput("odd", number) if number % 2 else number
        if number == 7 and not _TwoOutputs.failed:
            _TwoOutputs.failed = True
            raise ValueError("the first time")
        self._waiting.append(WindowedValue(100 + number, timestamp, (window,)))

    def finish_bundle(self):
        yield from self._waiting


def test_a_dofn_is_kept_from_bundle_to_bundle_and_a_failed_bundle_gives_nothing(monkeypatch):
    overrides = TransformEvaluatorRegistry._test_evaluators_overrides
    monkeypatch.setitem(overrides, beam.ParDo, _KeptParDoEvaluator)
    story = test_stream.TestStream()
    for start in range(0, 12, 3):
        story.add_elements(range(start, start + 3))
    with beam.Pipeline(options=PipelineOptions([], streaming=True, runner="BundleBasedDirectRunner")) as p:
        split = p | story.advance_watermark_to_infinity() | beam.ParDo(_TwoOutputs()).with_outputs("odd", main="even")
        assert_that(split.odd, equal_to(list(range(1, 12, 2))), label="odd")
        assert_that(split.even, equal_to([*range(0, 12, 2), *range(100, 112)]), label="even")
    assert (_TwoOutputs.made, _TwoOutputs.failed) == (2, True)  # anew only after the failure
