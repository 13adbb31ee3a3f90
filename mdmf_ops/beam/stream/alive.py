"""Half-open connections to an emulator of Pub/Sub, found out as those to the service are."""

import functools
import os

import grpc

ALIVE_MS = 10_000
"""So often an emulator that says nothing is asked whether it lives, and so long it has for the answer."""


def ask_whether_connections_live() -> None:
    """Has the clients that this process makes from now on ask an emulator whether the connection lives.

    Google's clients ask the service every 30 s. To an emulator they open a plain channel, which never asks, and whoever
    waits on it waits for good.
    """
    if "PUBSUB_EMULATOR_HOST" in os.environ:
        names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
        options = [(name, ALIVE_MS) for name in names]
        grpc.insecure_channel = functools.partial(grpc.insecure_channel, options=options)
