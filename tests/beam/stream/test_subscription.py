"""The local runner's subscription: nothing acknowledged that is not dealt with, nothing held back for good."""

import datetime
import logging
import threading

import grpc
import pytest
from faults import TcpProxy
from google.api_core.exceptions import Aborted, InvalidArgument, NotFound, ServiceUnavailable
from google.cloud import pubsub_v1
from pubsub import PROJECT, Topic, wait_for

from mdmf_ops.beam.stream import alive
from mdmf_ops.beam.stream import subscription as subscription_module
from mdmf_ops.beam.stream.subscription import _Subscription


def take(subscription: _Subscription, count: int) -> list:
    taken: list = []
    wait_for(lambda: taken.extend(subscription.take()) or len(taken) >= count, 60, f"{count} messages")
    return taken


def test_only_what_is_dealt_with_is_acknowledged(emulator, monkeypatch):
    monkeypatch.setattr(subscription_module, "LEASE_S", 10)  # the service's least
    topic = Topic("local-acknowledged")
    for i in range(100):
        future = topic.publish(b"%d" % i)
    future.result()
    first = _Subscription()
    first.open(topic.subscription)
    taken = take(first, 100)
    assert len({message.message_id for message in taken}) == 100
    for message in taken[:90]:
        first.acknowledge(message.message_id)
        first.acknowledge(message.message_id)
    first.drain()
    assert not first.is_drained()
    wait_for(lambda: not first._threads[0].is_alive(), 30, "the last pull")
    assert not first.is_drained()  # ten are outstanding still
    first.close()
    second = _Subscription()
    second.open(topic.subscription)
    again = take(second, 10)  # when their leases end
    assert {message.message_id for message in again} == {message.message_id for message in taken[90:]}
    for message in again:
        second.acknowledge(message.message_id)
    second.drain()
    wait_for(second.is_drained, 30, "the drain")
    second.close()
    assert topic.pull() == []


def test_a_subscription_that_is_deleted_is_an_error_once_what_was_taken_in_is_dealt_with(emulator):
    topic = Topic("local-deleted")
    subscription = _Subscription()
    subscription.open(topic.subscription)
    topic.publish(b"x").result()
    [message] = take(subscription, 1)
    with pubsub_v1.SubscriberClient() as client:
        client.delete_subscription(subscription=topic.subscription)
    wait_for(subscription.draining.is_set, 60, "the drain")
    wait_for(subscription.has_ended, 60, "the end of pulls")
    assert subscription.take() == [] and not subscription.is_drained()
    subscription.acknowledge(message.message_id)
    assert subscription.is_drained()
    with pytest.raises(NotFound):
        subscription.close()


def test_connections_cut_garbled_and_left_half_open_lose_no_message(emulator, monkeypatch):
    monkeypatch.setattr(subscription_module, "_PULL_S", 0.5)
    monkeypatch.setattr(subscription_module, "LEASE_S", 10)
    monkeypatch.setattr(subscription_module, "_PAUSE_S", 0.1)
    monkeypatch.setattr(alive, "ALIVE_MS", 2000)
    topic = Topic("local-faults")
    with TcpProxy(emulator) as proxy:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", proxy.address)
        monkeypatch.setattr(grpc, "insecure_channel", grpc.insecure_channel)  # so that it is set back
        alive.ask_whether_connections_live()
        subscription = _Subscription()
        subscription.open(topic.subscription)
        taken: dict[str, bytes] = {}

        def arrives(data: bytes) -> None:
            topic.publish(data).result()

            def there() -> bool:
                for message in subscription.take():
                    taken[message.message_id] = message.data
                    subscription.acknowledge(message.message_id)
                return data in taken.values()

            wait_for(there, 60, f"{data!r}")

        arrives(b"before")
        proxy.cut()
        arrives(b"cut")
        proxy.inject(b"HTTP/1.1 200 OK\r\n\r\n" * 9)
        arrives(b"garbled")
        proxy.refuses = True
        proxy.cut()
        topic.publish(b"refused").result()
        assert subscription.take() == []
        proxy.refuses = False
        arrives(b"accepted")
        proxy.stall()
        arrives(b"half-open")
        proxy.silent = True
        proxy.cut()
        topic.publish(b"silent").result()
        assert subscription.take() == []
        proxy.silent = False
        arrives(b"answered")
        subscription.drain()
        wait_for(subscription.is_drained, 30, "the drain")
        subscription.close()
    expected = [b"accepted", b"answered", b"before", b"cut", b"garbled", b"half-open", b"refused", b"silent"]
    assert sorted(taken.values()) == expected
    assert topic.pull() == []  # every acknowledgement came through


def test_a_message_that_is_acknowledged_and_comes_again_is_acknowledged_again():
    published = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)

    class Service:
        """Delivers one message again and again; a mock, since no service can be made to."""

        def __init__(self):
            self.acknowledged: list[str] = []
            self.pulls = 0

        def pull(self, **_request):
            self.pulls += 1
            message = pubsub_v1.types.PubsubMessage(data=b"x", message_id="1", publish_time=published)
            received = pubsub_v1.types.ReceivedMessage(ack_id=f"ack{self.pulls}", message=message)
            return pubsub_v1.types.PullResponse(received_messages=[received] if self.pulls <= 3 else [])

        def modify_ack_deadline(self, **_request): ...

        def acknowledge(self, ack_ids, **_request):
            self.acknowledged += ack_ids

        def close(self): ...

    subscription, service = _Subscription(), Service()
    subscription._client, subscription._name = service, "subscription"
    subscription._acknowledged["1"] = published
    service_pull = service.pull

    def pull_and_stop(**request):
        if service.pulls == 3:
            subscription.draining.set()
        return service_pull(**request)

    service.pull = pull_and_stop
    subscription._pull()
    subscription._flush()
    assert service.acknowledged == ["ack1", "ack2", "ack3"]
    assert subscription.take() == []


def test_a_lease_that_cannot_be_extended_neither_loses_a_message_nor_gives_it_twice(emulator, monkeypatch):
    def refused(*_arguments, **_request):
        raise ServiceUnavailable("passing")

    monkeypatch.setattr(pubsub_v1.SubscriberClient, "modify_ack_deadline", refused)
    topic = Topic("local-lapsed")
    sent = {topic.publish(b"%d" % i).result() for i in range(3)}
    subscription = _Subscription()
    subscription.open(topic.subscription)
    assert {message.message_id for message in take(subscription, 3)} == sent
    first = dict(subscription._outstanding)
    taken: list = []

    def are_redelivered() -> bool:
        taken.extend(subscription.take())
        return all(subscription._outstanding[name] != first[name] for name in sent)

    wait_for(are_redelivered, 60, "all three again")
    for message_id in sent:
        subscription.acknowledge(message_id)
    subscription.drain()
    wait_for(subscription.is_drained, 30, "the drain")
    assert taken + subscription.take() == []
    subscription.close()
    assert topic.pull() == []


def test_leases_that_end_stop_no_stream_on_a_subscription_with_exactly_once_delivery(emulator, monkeypatch):
    away = threading.Event()

    def passes_when_there(name: str) -> None:
        real = getattr(pubsub_v1.SubscriberClient, name)

        def call(*arguments, **request):
            if away.is_set():
                raise ServiceUnavailable("passing")
            return real(*arguments, **request)

        monkeypatch.setattr(pubsub_v1.SubscriberClient, name, call)

    for name in ("modify_ack_deadline", "acknowledge"):
        passes_when_there(name)
    topic = Topic("local-exactly-once")
    topic.subscription = f"projects/{PROJECT}/subscriptions/local-exactly-once-own"
    once = {"ack_deadline_seconds": 10, "enable_exactly_once_delivery": True}
    topic._subscriber.create_subscription(request={"name": topic.subscription, "topic": topic.path, **once})
    count = 600  # all of them refused: more than fit into one answer
    for future in [topic.publish(b"%d" % i) for i in range(count)]:
        future.result()
    away.set()
    subscription = _Subscription()
    subscription.open(topic.subscription)
    taken = take(subscription, count)
    for message in taken:
        subscription.acknowledge(message.message_id)
    # Their leases have ended; of some perhaps twice before this is looked at.
    wait_for(lambda: len(subscription._done) >= 2 * count, 60, "all of them again")
    away.clear()
    subscription.drain()
    wait_for(lambda: not subscription._done, 30, "acknowledgements")
    wait_for(subscription.is_drained, 30, "the drain")
    assert subscription.take() == [] and len({message.message_id for message in taken}) == count
    subscription.close()
    assert topic.pull() == []


def test_an_acknowledgement_that_is_refused_for_now_is_tried_again_and_another_error_is_one():
    reasons = {"a": "PERMANENT_FAILURE_INVALID_ACK_ID", "c": "TRANSIENT_FAILURE_OTHER"}
    refusals = [
        InvalidArgument("refused", error_info={"metadata": reasons}),
        InvalidArgument("another", error_info={"metadata": {"service": "pubsub.googleapis.com"}}),
    ]
    asked: list[list[str]] = []

    class Service:
        """Refuses single ids; a mock, since the emulator refuses none for now."""

        def acknowledge(self, ack_ids, **_request):
            asked.append(list(ack_ids))
            if refusals:
                raise refusals.pop(0)

    subscription = _Subscription()
    subscription._client, subscription._name, subscription._done = Service(), "subscription", ["a", "b", "c"]
    with pytest.raises(Aborted):
        subscription._flush()
    with pytest.raises(InvalidArgument, match="another"):
        subscription._flush()
    subscription._flush()
    assert (asked, subscription._done) == ([["a", "b", "c"], ["c"], ["c"]], [])


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_stream_that_ends_while_the_service_is_away_hands_in_what_it_can_and_says_the_rest(
    emulator, monkeypatch, caplog, comes_back
):
    caplog.set_level(logging.WARNING, "mdmf_ops")  # whatever a verb that ran in this process has set
    monkeypatch.setattr(subscription_module, "_PULL_S", 0.5)
    monkeypatch.setattr(subscription_module, "LEASE_S", 20 if comes_back else 1)
    topic = Topic(f"local-away-{comes_back}")
    sent = {topic.publish(b"%d" % i).result() for i in range(3)}
    with TcpProxy(emulator) as proxy:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", proxy.address)
        subscription = _Subscription()
        subscription.open(topic.subscription)
        take(subscription, 3)
        proxy.refuses = True
        proxy.cut()
        subscription.draining.set()
        wait_for(lambda: not subscription._threads[0].is_alive(), 90, "the last pull")
        for message_id in sent:
            subscription.acknowledge(message_id)
        closing = threading.Thread(target=subscription.close)
        closing.start()
        if comes_back:
            wait_for(lambda: not subscription._threads[1].is_alive(), 90, "the last tries")
            proxy.refuses = False
        closing.join(90)
        assert not closing.is_alive()
    told = [record.message for record in caplog.records if "3 messages could not be acknowledged" in record.message]
    assert len(told) == (not comes_back)
    assert len(subscription._done) == (0 if comes_back else 3)
