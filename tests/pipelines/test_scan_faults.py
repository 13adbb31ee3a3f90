"""A scan through a store that falters and a network that cuts: every image one row, read back from the Parquet."""

import itertools
import time

import pytest
from conftest import tiny
from emulators import Bucket, CountingProxy, environment, gcp_storage_emulator
from faults import TcpProxy
from scans import read_rows

from mdmf_ops import cli
from mdmf_ops.beam import ImageRef, gcs
from mdmf_ops.beam.commit import read_manifests
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.runs import strays, verify_run
from mdmf_ops.beam.sources import list_images
from mdmf_ops.detector import ErrorCode, Limits

IMAGES = 40


@pytest.fixture(scope="module")
def store():
    """A bucket without faults, an HTTP proxy before it and a TCP proxy before that."""
    with gcp_storage_emulator() as url, CountingProxy(url) as http, TcpProxy(http.url) as tcp:
        with environment(url):
            bucket = Bucket("faults")
            for i in range(IMAGES):
                bucket.put(f"in/{i:03d}.png", tiny(i))
        with environment(f"http://{tcp.address}"):
            yield bucket, http, tcp


@pytest.fixture(autouse=True)
def mended(store, monkeypatch):
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_delay(initial=0.05, maximum=0.5))
    yield
    _bucket, http, tcp = store
    http.before, tcp.answer_bytes, tcp.bytes_per_s = (lambda _kind, _name: None), None, None


def scan(bucket: Bucket, run_id: str) -> int:
    where = [bucket.uri("in/"), "--output", bucket.uri(f"out-{run_id}"), "--run_id", run_id]
    return cli.main(["scan", *where, "--device", "cpu", "--workers", "1", "--json"])  # in this process


def check_rows(bucket: Bucket, run_id: str, folder, error_codes: set) -> None:
    output = bucket.uri(f"out-{run_id}")
    [manifest] = read_manifests(output)
    assert verify_run(output, manifest) == []
    assert strays(output) == []
    rows = read_rows(bucket.download(f"out-{run_id}/", folder))
    assert [row["image_uri"] for row in rows] == [bucket.uri(f"in/{i:03d}.png") for i in range(IMAGES)]
    assert {row["error_code"] for row in rows} == error_codes


def test_answers_of_429_500_and_503_and_cut_connections_change_no_row(store, tmp_path):
    bucket, http, tcp = store
    numbers, faults = itertools.count(1), itertools.cycle([429, 500, 503])
    http.before = lambda _kind, _name: next(faults) if next(numbers) % 7 == 0 else None
    tcp.answer_bytes = 40_000  # a listing and a few images, and the last answer in part
    assert scan(bucket, "faltering") == cli.EXIT_OK
    assert next(numbers) > IMAGES
    tcp.answer_bytes = None
    http.before = lambda _kind, _name: None
    check_rows(bucket, "faltering", tmp_path / "out", {None})


def test_403_on_the_output_is_one_line_and_no_run_and_on_the_images_it_is_their_code(store, tmp_path, capsys):
    bucket, http, _tcp = store
    http.before = lambda kind, _name: 403 if kind == "write" else None
    assert scan(bucket, "refused") == cli.EXIT_FAILED
    assert "grant this account access" in capsys.readouterr().err
    assert read_manifests(bucket.uri("out-refused")) == []
    http.before = lambda kind, name: 403 if kind == "media" and name.startswith("in/") else None
    assert scan(bucket, "refused") == cli.EXIT_OK
    check_rows(bucket, "refused", tmp_path / "out", {"forbidden"})


def test_a_half_open_connection_costs_a_wait_and_no_byte(store, monkeypatch):
    bucket, _http, tcp = store
    monkeypatch.setattr(gcs, "TIMEOUT_S", (0.5, 0.5))
    refs = list(list_images(bucket.uri("in/")))
    assert fetch_image(refs[0], Limits()).content == tiny(0)
    tcp.stall()
    assert fetch_image(refs[1], Limits()).content == tiny(1)


def test_a_link_that_is_throttled_is_waited_for_and_changes_no_row(store, tmp_path):
    bucket, _http, tcp = store
    tcp.bytes_per_s = 60_000  # of each connection and direction
    started_s = time.monotonic()
    assert scan(bucket, "throttled") == cli.EXIT_OK
    assert time.monotonic() - started_s < 120
    tcp.bytes_per_s = None
    check_rows(bucket, "throttled", tmp_path / "out", {None})


def test_an_answer_that_trickles_costs_a_bounded_time_and_no_byte(store, monkeypatch):
    bucket, _http, tcp = store
    bucket.put("large/a.png", tiny(0) + bytes(100_000))
    [ref] = list_images(bucket.uri("large/"))
    with monkeypatch.context() as impatient:
        impatient.setattr(gcs, "ANSWER_S", 1.0)
        impatient.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(3))
        tcp.bytes_per_s = 5000  # 20 s for the image; the head of the answer passes in no time
        started_s = time.monotonic()
        assert fetch_image(ref, Limits()).error.code is ErrorCode.UNAVAILABLE
        assert time.monotonic() - started_s < 15
    tcp.bytes_per_s = None
    assert fetch_image(ref, Limits()).content == tiny(0) + bytes(100_000)


def test_bytes_that_are_no_answer_are_an_error_or_retried_and_never_an_image(store):
    bucket, _http, tcp = store
    refs = list(list_images(bucket.uri("in/")))
    tcp.inject(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nJUNK")
    image = fetch_image(refs[2], Limits())
    assert image.content == tiny(2) or image.error is not None


def test_an_answer_that_is_cut_within_its_head_is_asked_for_again(store):
    """Its length is in the part that is missing: nothing else tells an image from none."""
    bucket, http, tcp = store
    http.before = lambda _kind, _name: setattr(tcp, "answer_bytes", None)
    found = []
    for answer_bytes in range(1, 500, 3):
        tcp.cut()
        tcp.answer_bytes = answer_bytes  # of the first connection
        found.append(fetch_image(ImageRef(bucket.uri("in/000.png")), Limits()).content)
    assert found == [tiny(0)] * len(found)
