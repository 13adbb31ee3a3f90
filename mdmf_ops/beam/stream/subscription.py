"""The subscription that the local runner reads: what has arrived, what is outstanding, what was acknowledged.

A message's lease is extended until its row is durable; then it is acknowledged, and not before.
"""

import contextlib
import datetime
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import grpc
from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    GoogleAPICallError,
    InternalServerError,
    RetryError,
    ServerError,
    TooManyRequests,
)
from google.cloud import pubsub_v1

from mdmf_ops.text import told

_log = logging.getLogger(__name__)

WAIT_S = 0.2
"""How long a read waits for a first message: as often do windows and timers look at the clock in a quiet stream."""

BATCH_MESSAGES = 32
"""A read takes what has arrived, up to so many, and makes one bundle of them; the detector's batches are cut from it.
They are small when the stream is quiet and full when it is busy."""

LEASE_S = 20
"""A killed process's messages are delivered again after this time."""

_MAX_OUTSTANDING = 200_000
"""Messages are outstanding until their window is written. Beyond this many the service holds the rest back."""

_TRANSIENT = (Aborted, RetryError, ServerError, TooManyRequests)
"""Errors of the service that pass."""

_PULL_S = 5.0
_PAUSE_S = 1.0
_FLUSH_S = 0.2
_WARN_S = 60.0
"""While the service cannot be reached, that is said so often."""

_MAX_IDS = 1000
_REMEMBERED = 100_000
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
        self._connected = False
        self._warned_s = -_WARN_S
        self.quiet = False  # whether the service had no more to give when it was last asked
        self.batch_wait_s = 0.0
        self.draining = threading.Event()

    def open(self, name: str) -> None:
        if not self._threads:
            self._name = name
            self._client = pubsub_v1.SubscriberClient()
            self._client.transport.grpc_channel.subscribe(self._notice)
            self._threads = [threading.Thread(target=run, daemon=True) for run in (self._pull, self._keep)]
            for thread in self._threads:
                thread.start()

    def _notice(self, state: grpc.ChannelConnectivity) -> None:
        self._connected = state is grpc.ChannelConnectivity.READY

    def _pull(self) -> None:
        while not self.draining.is_set():
            try:
                # Not tried again in there, unseen: no window is to close while the service is away.
                response = self._client.pull(
                    subscription=self._name, max_messages=BATCH_MESSAGES, timeout=_PULL_S, retry=None
                )
                self.quiet = not response.received_messages
                fresh = self._register(response.received_messages)
                with contextlib.suppress(*_TRANSIENT):  # they are outstanding, and so extended again soon
                    self._extend([received.ack_id for received in response.received_messages])
            except DeadlineExceeded:  # nothing has come; or the service is not there
                self.quiet = self._connected
                continue
            except _TRANSIENT as error:
                self.quiet = False
                self._warn(error)
                self.draining.wait(_PAUSE_S)
                continue
            except Exception as error:
                self._end(error)
                return
            for message in fresh:
                self._arrived.put(message)
            while len(self._outstanding) > _MAX_OUTSTANDING and not self.draining.wait(_FLUSH_S):
                self.quiet = True  # windows must close to make room

    def _register(self, found: Iterable[pubsub_v1.types.ReceivedMessage]) -> list[pubsub_v1.types.PubsubMessage]:
        """Notes what was delivered as outstanding; gives the messages that the pipeline does not have."""
        fresh = []
        with self._lock:
            for received in found:
                message_id, published = received.message.message_id, received.message.publish_time
                # An emulator that was started again counts its ids anew.
                if self._acknowledged.get(message_id) == published:  # the service missed it
                    self._done.append(received.ack_id)
                    continue
                _ack_id, before = self._outstanding.get(message_id, ("", None))
                self._outstanding[message_id] = received.ack_id, published
                if before != published:  # else its lease had ended while it waits for its file
                    fresh.append(received.message)
        return fresh

    def _keep(self) -> None:
        """Hands in acknowledgements, and extends the leases of what is outstanding."""
        extended_s = time.monotonic()
        while not self._closing.wait(_FLUSH_S):
            try:
                self._flush()
                now_s = time.monotonic()
                if now_s - extended_s > LEASE_S / 3:
                    with self._lock:
                        ids = [ack_id for ack_id, _published in self._outstanding.values()]
                    for start in range(0, len(ids), _MAX_IDS):
                        self._extend(ids[start : start + _MAX_IDS])
                    extended_s = now_s
            except _TRANSIENT as error:  # a lease that ends meanwhile is a redelivery
                self._warn(error)
            except Exception as error:
                self._end(error)
                return

    def _end(self, error: Exception) -> None:
        """Drains after an error that does not pass; `close` raises it. The messages of a subscription that was deleted
        never come again: their rows are written while they are here."""
        if self._closing.is_set():  # the client was closed while a pull went on
            return
        if self._error is None:
            _log.error("Pub/Sub: %s: the stream writes what it took in, and stops", told(str(error)))
            self._error = error
        if not self.draining.is_set():
            self.drain()

    def _extend(self, ack_ids: list[str]) -> None:
        if ack_ids:
            self._tell(self._client.modify_ack_deadline, ack_ids, ack_deadline_seconds=LEASE_S)

    def _tell(self, call: Callable, ack_ids: list[str], **more: int) -> dict[str, str]:
        """Tells the service of leases. Gives those that a subscription with exactly-once delivery refuses, and why.

        As a rule they have ended. The message comes again under another id, and is known then.
        """
        try:
            call(subscription=self._name, ack_ids=ack_ids, timeout=LEASE_S, retry=None, **more)
        except (InternalServerError, TooManyRequests, ValueError):
            # Whichever Google's client makes of an answer that names more refused ids than gRPC takes in one.
            half = len(ack_ids) // 2
            if not half:
                raise
            return self._tell(call, ack_ids[:half], **more) | self._tell(call, ack_ids[half:], **more)
        except GoogleAPICallError as error:
            refused = {ack_id: error.metadata[ack_id] for ack_id in ack_ids if ack_id in (error.metadata or {})}
            if not refused:
                raise
            return refused
        return {}

    def _warn(self, error: Exception) -> None:
        if time.monotonic() - self._warned_s > _WARN_S:
            self._warned_s = time.monotonic()
            _log.warning("Pub/Sub: %s", told(str(error)))

    def _flush(self) -> None:
        while self._done:
            ids = self._done[:_MAX_IDS]
            refused = self._tell(self._client.acknowledge, ids)
            again = [ack_id for ack_id, why in refused.items() if why.startswith("TRANSIENT")]
            with self._lock:
                self._done[: len(ids)] = again
            if again:
                raise Aborted(f"{len(again)} acknowledgements are to be tried again, as the service says")

    def take(self) -> list[pubsub_v1.types.PubsubMessage]:
        """The messages that have arrived, at most a batch; waits a moment for the first, and then for the others. Those
        that still wait when the time for a drain is over are left to the next stream.
        """
        if self._is_overdue():
            return []
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

    def has_ended(self) -> bool:
        """Whether nothing arrives any more, beyond what can be taken."""
        return not self._threads[0].is_alive()

    def is_drained(self) -> bool:
        """Whether every message that was taken in is acknowledged, or the time for that is over."""
        is_empty = self.draining.is_set() and self.has_ended() and not self._outstanding
        return is_empty or self._is_overdue()

    def _is_overdue(self) -> bool:
        return self.draining.is_set() and time.monotonic() > self._drain_ends_s

    def close(self) -> None:
        """Hands in the last acknowledgements. For as long as a drain may take they are tried again.

        Raises:
            Exception: the subscription could not be read, for good: it is gone, or access is.
        """
        if not self._threads:
            return
        if self._outstanding:
            _log.warning("Pub/Sub: %d messages are in no file yet: they come again", len(self._outstanding))
        self._closing.set()
        self._threads[1].join()
        end_s = max(self._drain_ends_s, time.monotonic() + LEASE_S)
        while True:
            try:
                self._flush()
                break
            except _TRANSIENT as error:
                if time.monotonic() > end_s:
                    _log.warning(
                        "Pub/Sub: %s; all rows are written, but %d messages could not be acknowledged: they come again,"
                        " and their rows a second time, with the same row_id",
                        told(str(error)),
                        len(self._done),
                    )
                    break
                self._warn(error)
                time.sleep(_PAUSE_S)
        self._client.close()
        if self._error is not None:
            raise self._error


SUBSCRIPTION = _Subscription()


def acknowledge(message_id: str) -> None:
    """Tells the service that a message is dealt with: its row is in a file, or it needs none."""
    SUBSCRIPTION.acknowledge(message_id)
