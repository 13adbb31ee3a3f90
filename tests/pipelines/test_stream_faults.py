"""The stream when what it stands on fails: the store, Pub/Sub, the disk, the clock. Rows are counted in the Parquet."""

import fnmatch
import itertools
import json
import signal

import pyarrow.parquet as pq
import pytest
from conftest import BROKEN, FULL, encode, photo
from emulators import Bucket, CountingProxy, environment, fake_gcs_server
from faults import JUMPING_CLOCK, TcpProxy, enlarge, small_disk
from pubsub import PROJECT, PubSubEmulator, StreamProcess, pointed_at, wait_for
from streams import START_S, check_dataset, flags, metrics_of, read_rows, topics

from mdmf_ops.beam.commit import read_manifests
from mdmf_ops.beam.runs import collect, strays
from mdmf_ops.beam.stream.drift import DRIFT_SCHEMA

IMAGES = [encode(photo(i, 64, 64)) for i in range(20)]


def items(rows: list[dict]) -> list[str]:
    """The caller's names of the images that have rows, in order."""
    return sorted(row["attributes"]["item"] for row in rows)


def alerted(alerts) -> set[str]:
    """The images that have had an alert: one may come twice."""
    return {json.loads(data)["image_uri"] for data, _attributes in alerts.pull()}


def publish(uploads, name: str, count: int = len(IMAGES)) -> list[str]:
    names = [f"{name}-{i:03d}" for i in range(count)]
    for item, image in zip(names, itertools.cycle(IMAGES)):  # cycle has no end
        uploads.publish(image, item=item).result()
    return names


def test_a_stream_from_bucket_to_bucket_through_a_store_that_falters_and_then_refuses(emulator, tmp_path):
    uploads, alerts, errors = topics("bucket")
    topic = uploads.path.rpartition("/")[2]
    notify = [f"-event.pubsub-project-id={PROJECT}", f"-event.pubsub-topic={topic}", "-event.bucket=uploads"]
    with fake_gcs_server(*notify) as url, CountingProxy(url) as proxy, environment(url):
        bucket, scores = Bucket("uploads"), Bucket("scores")
        output = scores.uri("out")
        expected = {bucket.uri("broken.jpg"): "truncated"}
        bucket.put("broken.jpg", BROKEN["half.jpg"])
        command = flags(output, uploads, alerts, errors, "--window_s", "2")
        through_proxy = {"STORAGE_EMULATOR_HOST": proxy.url}
        # Every third answer is an error that passes, for reads and writes and listings.
        numbers, faults = itertools.count(1), itertools.cycle([429, 500, 503])
        proxy.before = lambda _kind, _name: next(faults) if next(numbers) % 3 == 0 else None

        def put(name: str) -> None:
            for i, image in enumerate(IMAGES):
                expected[bucket.uri(f"{name}/{i}.jpg")] = None
                bucket.put(f"{name}/{i}.jpg", image)

        def closed_rows() -> int:
            return sum(json.loads(scores.get(name))["rows"] for name in scores.names("out/_windows/"))

        put("one")
        with StreamProcess(tmp_path / "log1", *command, **through_proxy) as stream:
            wait_for(lambda: len(alerted(alerts)) == len(IMAGES), START_S, "alerts of the first images")
            wait_for(lambda: closed_rows() == len(IMAGES) + 1, START_S, "the first windows in the bucket")
            # Now the account may not write any more: nothing can be kept, so the stream says so and ends.
            proxy.before = lambda kind, _name: 403 if kind == "write" else None
            put("two")
            assert "grant this account access" in stream.fails(2 * START_S)
        proxy.before = lambda _kind, _name: None
        with StreamProcess(tmp_path / "log2", *command, **through_proxy) as stream:

            def all_there() -> bool:  # late or not: leases end one by one, and windows close meanwhile
                written = read_rows(scores.download("out/", tmp_path / "so far"))
                return {row["image_uri"] for row in written} == expected.keys()

            wait_for(all_there, 2 * START_S, "every row in the bucket")
            metrics = metrics_of(stream.drain())
        check_dataset(output)
        local = scores.download("out/", tmp_path / "out")
    rows = read_rows(local)
    assert {row["image_uri"]: row["error_code"] for row in rows} == expected
    # What the stream that stopped had written in part comes again: as the same row.
    assert len({(row["image_uri"], row["row_id"]) for row in rows}) == len(expected)
    assert metrics["rows_written"] == metrics["images_received"] > 0
    assert uploads.pull() == []
    files = {f"{output}/{path.relative_to(local)}" for path in local.glob("scan_date=*/*.parquet")}
    for data, _attributes in alerts.received:
        alert = json.loads(data)
        assert alert["rows_at"].startswith(f"{output}/scan_date=")
        written = [row["run_id"] for row in rows if row["image_uri"] == alert["image_uri"]]
        is_there = any(fnmatch.fnmatch(f, alert["rows_at"]) and f"/{run}-" in f for f in files for run in written)
        # The alerts of the stream that stopped name files that it could not write.
        assert is_there or "/two/" in alert["image_uri"]
    drift = [pq.read_table(path) for path in local.glob("_drift/scan_date=*/*.parquet")]
    assert all(table.schema.equals(DRIFT_SCHEMA) for table in drift)
    measured = [row for table in drift for row in table.to_pylist() if row["measure"] == "mmd2"]
    assert sum(row["images"] for row in measured) == len([row for row in rows if not row["error_code"]])
    closed = [json.loads(path.read_text()) for path in local.glob("_windows/*.json")]
    listed = {run for window in closed for run in window["runs"]}
    assert sum(window["rows"] for window in closed) == len([row for row in rows if row["run_id"] in listed])
    assert all("-late" in row["run_id"] for row in rows if row["run_id"] not in listed)
    assert alerted(alerts) == {uri for uri, error_code in expected.items() if not error_code}


# It asks a silent emulator every 2 s whether it lives, not every 10.
IMPATIENT = """
import sys
from mdmf_ops.beam.stream import alive
from mdmf_ops.cli import main
alive.ALIVE_MS = 2000
sys.exit(main(sys.argv[1:]))
"""


def test_pubsub_cut_silent_refused_and_dead_and_back_again_loses_and_doubles_nothing(tmp_path):
    emulator = PubSubEmulator()
    with TcpProxy(emulator.address) as proxy, pointed_at(emulator.address):
        uploads, alerts, errors = topics("dies")
        sent = publish(uploads, "before")
        with StreamProcess(
            tmp_path / "log",
            *flags(tmp_path / "out", uploads, alerts, errors, "--window_s", "2"),
            program=("-c", IMPATIENT, "stream"),
            PUBSUB_EMULATOR_HOST=proxy.address,
        ) as stream:
            wait_for(lambda: len(alerted(alerts)) == 20, START_S, "alerts before")
            proxy.cut()
            sent += publish(uploads, "cut")
            wait_for(lambda: len(alerted(alerts)) == 40, START_S, "alerts after the cut")
            proxy.stall()  # half-open, for what it reads and for what it publishes
            sent += publish(uploads, "silent")
            wait_for(lambda: len(alerted(alerts)) == 60, START_S, "alerts after the silence")
            proxy.refuses = True
            proxy.cut()
            sent += publish(uploads, "refused")
            proxy.refuses = False
            wait_for(lambda: len(alerted(alerts)) == 80, START_S, "alerts after the refusals")
            wait_for(lambda: len(read_rows(tmp_path / "out")) == 80, START_S, "rows in files")
            # The emulator forgets its topics with its death; they are there again when the stream next sees it.
            proxy.refuses = True
            proxy.cut()
            emulator.end(signal.SIGKILL)
            emulator.start()
            uploads, alerts, errors = topics("dies")
            proxy.refuses = False
            sent += publish(uploads, "again")
            # Clients wait ever longer between tries, up to two minutes.
            wait_for(lambda: len(alerted(alerts)) == 20, 3 * START_S, "alerts of the emulator's second life")
            metrics = metrics_of(stream.drain())
        assert uploads.pull() == []
    emulator.end()
    assert items(read_rows(tmp_path / "out")) == sorted(sent)
    assert metrics["rows_written"] == len(sent) == metrics["images_received"]
    check_dataset(tmp_path / "out")


@pytest.mark.skipif(not FULL, reason="MDMF_FULL=1 runs it")
def test_a_clock_that_jumps_ahead_and_back_makes_rows_late_and_none_lost(emulator, tmp_path):
    uploads, alerts, errors = topics("clock")
    offset = tmp_path / "offset"
    offset.write_text("0")
    command = flags(tmp_path / "out", uploads, alerts, errors, "--window_s", "2")
    program = ("-c", JUMPING_CLOCK.format(offset=str(offset)), "stream")
    sent = publish(uploads, "true")
    with StreamProcess(tmp_path / "log", *command, program=program) as stream:
        wait_for(lambda: len(alerted(alerts)) == 20, START_S, "alerts")
        offset.write_text("3600")
        sent += publish(uploads, "first", 1)
        # Its window closes when a read finds nothing and so goes by the clock: all that follows is late.
        wait_for(lambda: len(read_rows(tmp_path / "out")) == len(sent), START_S, "rows of a clock ahead in files")
        for name, jump_s in (("ahead", 3600), ("back", -3600), ("mended", 0)):
            offset.write_text(str(jump_s))
            sent += publish(uploads, name)
            wait_for(lambda: len(alerted(alerts)) == len(sent), START_S, f"alerts of a clock that is {name}")  # noqa: B023
        # What waited for its file when the clock went back does not wait for an hour.
        wait_for(lambda: len(read_rows(tmp_path / "out")) == len(sent), START_S, "rows in files")
        metrics = metrics_of(stream.drain())
    rows = read_rows(tmp_path / "out")
    assert items(rows) == sorted(sent)
    assert metrics["rows_written"] == len(sent)
    assert 0 < metrics["rows_late"] < len(sent)
    assert uploads.pull() == []
    check_dataset(tmp_path / "out")


def test_a_subscription_that_is_deleted_stops_the_stream_once_the_rows_of_what_it_took_in_are_written(
    emulator, tmp_path
):
    uploads, alerts, errors = topics("deleted")
    sent = publish(uploads, "taken", 5)
    with StreamProcess(tmp_path / "log", *flags(tmp_path / "out", uploads, alerts, errors)) as stream:
        wait_for(lambda: len(alerted(alerts)) == len(sent), START_S, "alerts")
        uploads._subscriber.delete_subscription(subscription=uploads.subscription)
        # No other stream will be given these messages: the service has dropped them.
        assert "mdmf stream: stopped: NotFound: 404 Subscription" in stream.fails(START_S)
        assert "\nmdmf stream: Pub/Sub: 404 Subscription" in stream.log.read_text()
    assert items(read_rows(tmp_path / "out")) == sent
    check_dataset(tmp_path / "out")


def test_a_full_disk_stops_the_stream_and_the_next_one_writes_every_row(emulator, tmp_path):
    uploads, alerts, errors = topics("full")
    # Less than the rows of all messages take in a single file (27 kB), which a busy machine makes of them.
    with small_disk(tmp_path / "disk", "24k") as disk:
        output = disk / "out"
        command = flags(output, uploads, alerts, errors, "--window_s", "2")
        sent = publish(uploads, "full", 60)
        with StreamProcess(tmp_path / "log1", *command) as stream:
            said = stream.fails(2 * START_S)
            assert "No space left on device" in said
            assert all(line.startswith("mdmf stream: ") for line in said.splitlines()), said
        enlarge(disk, "16m")
        with StreamProcess(tmp_path / "log2", *command) as stream:

            def all_committed() -> bool:  # some of them twice
                running = "goes to" in stream.log.read_text()  # else a signal would end it, and not drain it
                runs = {manifest["run_id"] for manifest in read_manifests(str(output))}
                rows = [row for row in read_rows(output) if row["run_id"] in runs]
                return running and set(items(rows)) == set(sent)

            wait_for(all_committed, 2 * START_S, "every row in a committed file")
            stream.drain()
        # A file whose manifest found no room counts for nothing, as after a kill: `mdmf runs gc` deletes it.
        collect(str(output), strays(str(output)))
        rows = read_rows(output)
        check_dataset(output)
    by_item = {row["attributes"]["item"]: row["row_id"] for row in rows}
    assert sorted(by_item) == sorted(sent)
    assert len({(row["attributes"]["item"], row["row_id"]) for row in rows}) == len(sent)
    assert uploads.pull() == []
