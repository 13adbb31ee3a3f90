"""What networks, clocks and disks do to a program: connections cut and stalled, a clock that jumps, a full disk."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing is a reset."""


class _Link:
    """One connection through the proxy: two sockets, and a thread for each direction."""

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        answer_bytes: int | None,
        stalled: bool,
        bytes_per_s: Callable[[], float | None],
    ):
        self.stalled = stalled
        self._bytes_per_s = bytes_per_s
        self._sockets = client, upstream
        self._answer_bytes = answer_bytes
        for source, target in ((client, upstream), (upstream, client)):
            threading.Thread(target=self._pump, args=(source, target, source is upstream), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        sent_bytes = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.stalled:  # swallowed: neither side hears of it
                    continue
                if is_answer and self._answer_bytes is not None:
                    data = data[: self._answer_bytes - sent_bytes]
                self._send(target, data)
                sent_bytes += len(data)
                if is_answer and sent_bytes == self._answer_bytes:
                    self.cut()
        if not self.stalled:
            self.cut()

    def _send(self, target: socket.socket, data: bytes) -> None:
        while rate := self._bytes_per_s():
            piece, data = data[: max(int(rate / 20), 1)], data[max(int(rate / 20), 1) :]
            if not piece:
                return
            target.sendall(piece)
            time.sleep(len(piece) / rate)
        target.sendall(data)

    def send(self, data: bytes) -> None:
        """To the client, as if from the other side."""
        with suppress(OSError):
            self._sockets[0].sendall(data)

    def cut(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class TcpProxy:
    """Forwards connections to an emulator, until it is told to do worse.

    Attributes:
        refuses: new connections are reset at once.
        answer_bytes: each new connection is cut once so many bytes have come back; None is no limit.
        silent: new connections are accepted, and nothing is ever said on them.
        bytes_per_s: of every connection, each way; None is as fast as it goes.
    """

    def __init__(self, upstream: str):
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.refuses = False
        self.answer_bytes: int | None = None
        self.silent = False
        self.bytes_per_s: float | None = None
        self._links: list[_Link] = []
        self._lock = threading.Lock()  # what is cut, is cut with the connection that is just being made
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self._forward(client)

    def _forward(self, client: socket.socket) -> None:
        try:
            if self.refuses:
                raise ConnectionError
            upstream = socket.create_connection(self._upstream)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
        else:
            self._links.append(_Link(client, upstream, self.answer_bytes, self.silent, lambda: self.bytes_per_s))

    def cut(self) -> None:
        """Resets every connection there is."""
        with self._lock:
            for link in self._links:
                link.cut()
            self._links.clear()

    def stall(self) -> None:
        """Leaves every connection there is open for good, and says no more on it: half-open. New ones are forwarded."""
        with self._lock:
            for link in self._links:
                link.stalled = True

    def inject(self, data: bytes) -> None:
        """Sends bytes to the client of every connection that are no answer to anything."""
        with self._lock:
            for link in self._links:
                link.send(data)

    def __enter__(self) -> "TcpProxy":
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._listener.close()
        self.cut()


JUMPING_CLOCK = """
import sys, threading, time, types
from pathlib import Path
import grpc._channel
real, offset = time.time, Path({offset!r})
# gRPC makes its deadlines in Python and keeps them in C, where this cannot turn the clock: were it turned in Python
# alone, every call would end at once. A real clock is off for both.
grpc._channel.time = types.SimpleNamespace(**vars(time))
def jump():
    while not float(offset.read_text() or 0):
        time.sleep(0.1)
    time.time = lambda: real() + float(offset.read_text() or 0)
threading.Thread(target=jump, daemon=True).start()  # Beam pickles the clock as it is when a pipeline starts
from mdmf_ops.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""A program in place of `python -m mdmf_ops` whose wall clock is off by as many seconds as a file says."""


@contextmanager
def noting_proxy() -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """Variables by which libraries make every connection through a proxy, and what that, which is silent, is asked
    for."""
    asked, kept = [], []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def note() -> None:
            while True:
                try:
                    connection = proxy.accept()[0]
                except OSError:  # closed
                    return
                kept.append(connection)
                asked.append(connection.recv(200))

        thread = threading.Thread(target=note, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        yield {"https_proxy": url, "http_proxy": url, "no_proxy": "127.0.0.1,localhost"}, asked
        proxy.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of so many bytes (as `mount` writes it: 256k), on a folder."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip(
            "a small disk is a tmpfs, and mounting one needs root on Linux: run the tests as root in a container"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(folder: Path, size: str) -> None:
    """Makes room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
