"""Google's Pub/Sub emulator on a free port, topics on it, and `mdmf stream` in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from conftest import ROOT
from emulators import free_port

PROJECT = "mdmf-test"

_EMULATOR = "platform/pubsub-emulator/bin/cloud-pubsub-emulator"


def _emulator() -> Path:
    roots = [Path("/usr/lib/google-cloud-sdk"), Path("/usr/share/google-cloud-sdk"), Path.home() / "google-cloud-sdk"]
    if gcloud := shutil.which("gcloud"):
        roots.insert(0, Path(gcloud).resolve().parent.parent)
    for root in roots:
        if (root / _EMULATOR).exists():
            return root / _EMULATOR
    pytest.skip(
        "Google's Pub/Sub emulator is not installed: gcloud components install pubsub-emulator,"
        " or apt-get install google-cloud-cli-pubsub-emulator from Google's packages"
    )


def wait_for(condition: Callable[[], object], deadline_s: float, what: str) -> object:
    """Polls until a condition is true and returns what it gave."""
    end_s = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what}: not within {deadline_s:.0f} s")
        time.sleep(0.1)
    return found


class PubSubEmulator:
    """The emulator's process. It keeps nothing when it ends: started again, it knows no topic."""

    def __init__(self):
        self._command = _emulator()
        self.address = f"127.0.0.1:{free_port()}"
        self.start()

    def start(self) -> None:
        host, port = self.address.split(":")
        self._process = subprocess.Popen(
            [str(self._command), f"--host={host}", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a script that starts Java: both are ended together
        )
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)

    def end(self, number: int = signal.SIGTERM) -> None:
        os.killpg(self._process.pid, number)
        self._process.wait(20)


@contextmanager
def pubsub_emulator() -> Iterator[str]:
    """Starts the emulator and points this process and its children at it; gives its address."""
    emulator = PubSubEmulator()
    with pointed_at(emulator.address):
        try:
            yield emulator.address
        finally:
            emulator.end()


@contextmanager
def pointed_at(address: str) -> Iterator[None]:
    """This process and its children find Pub/Sub at an address."""
    before = os.environ.get("PUBSUB_EMULATOR_HOST")
    os.environ["PUBSUB_EMULATOR_HOST"] = address
    try:
        yield
    finally:
        os.environ.pop("PUBSUB_EMULATOR_HOST")
        if before is not None:
            os.environ["PUBSUB_EMULATOR_HOST"] = before


class Topic:
    """A topic with one subscription, both made here."""

    def __init__(self, name: str):
        from google.cloud import pubsub_v1

        self._publisher = pubsub_v1.PublisherClient()
        self._subscriber = pubsub_v1.SubscriberClient()
        self.path = f"projects/{PROJECT}/topics/{name}"
        self.subscription = f"projects/{PROJECT}/subscriptions/{name}"
        self._publisher.create_topic(name=self.path)
        self._subscriber.create_subscription(name=self.subscription, topic=self.path, ack_deadline_seconds=10)
        self.received: list = []

    def publish(self, data: bytes, **attributes: str):
        """Publishes a message; the future that is returned gives its id."""
        return self._publisher.publish(self.path, data, **attributes)

    def pull(self) -> list:
        """Everything received so far: (data, attributes) of each message."""
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of return_immediately: here it is what is meant
                response = self._subscriber.pull(
                    subscription=self.subscription, max_messages=1000, return_immediately=True, timeout=20
                )
            if not response.received_messages:
                return self.received
            ids = [received.ack_id for received in response.received_messages]
            self._subscriber.acknowledge(subscription=self.subscription, ack_ids=ids)
            self.received += [(r.message.data, dict(r.message.attributes)) for r in response.received_messages]


class StreamProcess:
    """`mdmf stream`, or another program, in a process of its own."""

    def __init__(
        self, log: Path, *flags: str, program: Sequence[str] = ("-m", "mdmf_ops", "stream"), **environment: str
    ):
        self._log = open(log, "ab")  # noqa: SIM115  # open as long as the process runs
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, *program, *flags],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )

    def drain(self, deadline_s: float = 300) -> str:
        """SIGTERM; what the stream printed, once it has ended well."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(deadline_s)
        text = self.log.read_text()
        assert code == 0, text
        return text

    def fails(self, deadline_s: float) -> str:
        """What the stream printed, once it has stopped with an error."""
        assert self.process.wait(deadline_s) == 1
        return self.log.read_text()

    def kill(self) -> None:
        """SIGKILL: nothing is written any more."""
        self.process.kill()
        self.process.wait(20)
        self._log.close()

    def __enter__(self) -> "StreamProcess":
        return self

    def __exit__(self, *_exception) -> None:
        if self.process.poll() is None:
            self.kill()
