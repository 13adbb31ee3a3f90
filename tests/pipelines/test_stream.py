"""The live stream, as it runs: emulators, a process of its own, signals; and the rows that are there at the end.

With MDMF_FULL=1 the load is 5,000 messages.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import BROKEN, FULL, ROOT, copy_detector, encode, photo
from emulators import Bucket, environment, fake_gcs_server
from faults import noting_proxy
from google.cloud.pubsub_v1.types import PubsubMessage
from google.pubsub_v1.services import publisher as gapic
from pubsub import PROJECT, StreamProcess, wait_for
from streams import START_S, check_dataset, flags, metrics_of, read_rows, topics

from mdmf_ops.beam.image import Message
from mdmf_ops.beam.stream.messages import message_uri


class Uploads:
    """Objects put into a bucket, and what their rows must say."""

    def __init__(self, bucket: Bucket):
        self._bucket = bucket
        self.expected: dict[tuple[str, int], str | None] = {}

    def put(self, name: str, content: bytes, error_code: str | None) -> tuple[str, int]:
        key = (self._bucket.uri(name), self._bucket.put(name, content))
        self.expected[key] = error_code
        return key

    def wave(self, name: str) -> None:
        """Thirty objects: good, twice the same, overwritten, a broken image and a text file."""
        first = self.put(f"{name}/overwritten.jpg", encode(photo(0)), "changed")
        self.put(f"{name}/overwritten.jpg", encode(photo(1)), None)
        assert first in self.expected and len(self.expected) % 30 == 2
        for i in range(24):
            self.put(f"{name}/{i:02d} ü.jpg", encode(photo(i)), None)
        for i in range(2):
            self.put(f"{name}/same{i}.jpg", encode(photo(5)), None)
        self.put(f"{name}/half.jpg", BROKEN["half.jpg"], "truncated")
        self.put(f"{name}/text.jpg", BROKEN["text.jpg"], "unsupported_format")


def test_the_full_circle_with_a_kill_in_between(emulator, tmp_path):
    uploads, alerts, errors = topics("circle")
    output = tmp_path / "out"
    notify = [f"-event.pubsub-project-id={PROJECT}", f"-event.pubsub-topic={uploads.path.rpartition('/')[2]}"]
    with fake_gcs_server(*notify) as url, environment(url):
        put = Uploads(Bucket("circle-bucket"))
        put.wave("one")
        command = flags(output, uploads, alerts, errors, "--window_s", "3")
        with StreamProcess(tmp_path / "log1", *command) as stream:
            wait_for(lambda: len(alerts.pull()) >= 10, START_S, "alerts of the first wave")
            put.wave("two")
            wait_for(lambda: len(alerts.pull()) >= 30, START_S, "alerts of the second wave")
            stream.kill()
        # Of the first wave again, in the other two forms: duplicates of rows that are there, or are to come.
        for (uri, generation), _error in list(put.expected.items())[:30]:
            bucket, name = uri.removeprefix("gs://").split("/", 1)
            attributes = {"eventType": "OBJECT_FINALIZE", "payloadFormat": "NONE"}
            names = {"bucketId": bucket, "objectId": name, "objectGeneration": str(generation)}
            uploads.publish(b"", **attributes, **names)
            uploads.publish(json.dumps({"uri": uri, "generation": generation}).encode())
        uploads.publish(
            b"", eventType="OBJECT_DELETE", payloadFormat="JSON_API_V1", bucketId="x", objectId="y"
        ).result()
        put.wave("three")
        with StreamProcess(tmp_path / "log2", *command) as stream:

            def all_there() -> bool:
                return {(row["image_uri"], row["image_generation"]) for row in read_rows(output)} == put.expected.keys()

            wait_for(all_there, START_S, "every row")
            metrics = metrics_of(stream.drain())
    rows = read_rows(output)
    found = {(row["image_uri"], row["image_generation"]): row["error_code"] for row in rows}
    # What was overwritten before it was read is `changed`; the second wave was uploaded under a running stream.
    raced = {key for key in found if put.expected[key] == "changed" and found[key] is None}
    assert all("/two/" in uri for uri, _generation in raced)
    assert {key: code for key, code in found.items() if key not in raced} == {
        key: code for key, code in put.expected.items() if key not in raced
    }
    # The second process knows nothing of what the killed one wrote: such a row may be there twice, as the same row.
    assert len({row["row_id"] for row in rows if row["image_uri"].endswith("/same0.jpg")}) == 1
    per_key = Counter((row["image_uri"], row["image_generation"], row["row_id"]) for row in rows)
    assert len(per_key) == len(put.expected)
    for run_id in {row["run_id"].split("-20")[1] for row in rows}:
        of_stream = [row for row in rows if row["run_id"].split("-20")[1] == run_id]
        assert len({(row["image_uri"], row["image_generation"]) for row in of_stream}) == len(of_stream)
    assert {json.loads(data)["row_id"] for data, _ in alerts.pull()} == {
        r["row_id"] for r in rows if not r["error_code"]
    }
    failed = {row["row_id"]: row["error_code"] for row in rows if row["error_code"]}
    assert {sent["mdmf_row_id"]: sent["mdmf_error_code"] for _, sent in errors.pull()} == failed
    assert all(
        sent["eventType"] == "OBJECT_FINALIZE" for data, sent in errors.received if not data.startswith(b'{"uri')
    )
    assert metrics["messages_skipped"] == 1
    assert metrics["messages_received"] == metrics["images_received"] + metrics["messages_duplicate"] + 1
    assert metrics["rows_written"] == metrics["images_received"]
    assert uploads.pull() == []  # everything is acknowledged
    check_dataset(output)


def test_duplicates_and_poison_are_counted_exactly_while_the_detector_is_swapped(emulator, tmp_path):
    count = 5000 if FULL else 500
    uploads, alerts, errors = topics("load")
    output = tmp_path / "out"
    ids = [copy_detector(tmp_path / name, name) for name in ("one", "two")]
    shutil.copytree(tmp_path / "one", tmp_path / "broken")
    (tmp_path / "broken" / "bank.safetensors").write_bytes(b"no tensors")
    pointer = tmp_path / "current"
    pointer.write_text("one\n")
    images = [encode(photo(i, 64, 64)) for i in range(50)]
    rng = random.Random(0)
    unique = count * 4 // 5
    sent: list[tuple[bytes, dict]] = []
    for i in range(unique):
        poison = i % 40 == 7  # 2.5 % of the different ones, 2 % of all
        data = rng.choice([b"{", b'{"uri": "/etc/passwd"}', b"no image", b"\x89PNG\r\n\x1a\n" + rng.randbytes(30)])
        sent.append((data if poison else images[i % 50], {"item": str(i)}))
    expected = {message_uri(Message(data, attributes, "", 0)) for data, attributes in sent}
    assert len(expected) == unique
    # Four parts. A duplicate is of its own part, and the third, under which the detector is swapped, has none: an image
    # that comes again under another detector is another row.
    quarter = unique // 4
    parts = [sent[i * quarter : (i + 1) * quarter] for i in range(4)]
    last = [parts[3].pop() for _ in range(quarter // 4)]  # come once: when they are answered, all has been pulled
    for part, share in zip(parts, (1, 1, 0, 2), strict=True):
        part += rng.choices(part, k=(count - unique) * share // 4)
        rng.shuffle(part)
    assert sum(map(len, [*parts, last])) == count
    command = flags(output, uploads, alerts, errors, "--window_s", "5", "--assets", str(pointer), "--pointer_s", "0.5")
    resident_mb = []
    with StreamProcess(tmp_path / "log", *command) as stream:

        def answered() -> int:
            return len(alerts.pull()) + len(errors.pull())

        def send(part: list) -> None:
            for future in [uploads.publish(data, **attributes) for data, attributes in part]:
                future.result()

        def watch(target: int, what: str) -> None:
            deadline_s = START_S + target / 4
            while answered() < target:
                resident_mb.append(memory_mb(stream.process.pid))
                deadline_s -= 0.5
                assert deadline_s > 0 and stream.process.poll() is None, (
                    f"{what}: {answered()}, {stream.log.read_text()}"
                )
                time.sleep(0.5)

        send(parts[0])
        watch(quarter // 2, "the first rows")
        resident_mb[:] = [memory_mb(stream.process.pid)]  # all is loaded; what was before does not count
        pointer.write_text("broken\n")
        send(parts[1])
        # None of these comes again. When they are answered, so is all that came before them, duplicates included.
        half, some = parts[2][: quarter // 2], parts[2][quarter // 2 : quarter * 3 // 4]
        send(half)
        watch(2 * quarter + len(half), "rows while the pointer is broken")
        broken_until = len(alerts.received)
        pointer.write_text("two\n")
        send(some)
        left = parts[2][len(half + some) :]
        watch(3 * quarter - len(left), "rows while the detector is swapped")
        while f"detector {ids[1]} replaces {ids[0]}" not in stream.log.read_text():
            send([left.pop()])  # the pointer is looked at when an image comes
            watch(3 * quarter - len(left), "a row while the detector is swapped")
        send(left)
        watch(3 * quarter, "the first rows of the new detector")
        send(parts[3])
        send(last)
        watch(unique, "the last rows")
        metrics = metrics_of(stream.drain())
    rows = read_rows(output)
    assert Counter(row["image_uri"] for row in rows) == Counter(expected)
    assert len([row for row in rows if row["status"] == "failed"]) == len(range(7, unique, 40)) == len(errors.pull())
    assert metrics["messages_received"] == count
    assert metrics["messages_duplicate"] == count - unique
    assert metrics["rows_written"] == unique == metrics["images_received"]
    assert (metrics["detector_swaps"], metrics["detector_rejections"] > 0) == (1, True)
    assert metrics["inference_request_batch_size"]["max"] >= 8  # batches form across bundles
    by_alert = [json.loads(data)["detector_id"] for data, _ in alerts.received]
    assert set(by_alert[:broken_until]) == {ids[0]}
    in_order = [row["detector_id"] for row in sorted(rows, key=lambda row: row["scanned_at"])]
    assert in_order == sorted(in_order, key=ids.index)  # the old one, then the new one
    assert Counter(by_alert) == Counter(row["detector_id"] for row in rows if row["status"] == "scored")
    assert Counter(by_alert)[ids[1]] > 0
    first_mb, most_mb = resident_mb[0], max(resident_mb)
    print(f"{count} messages: {first_mb:.0f} MB resident at the first rows, at most {most_mb:.0f} MB; {metrics}")
    assert most_mb - first_mb < 150
    check_dataset(output)


def test_neither_a_message_that_beam_could_not_publish_again_nor_silence_outside_stops_the_stream(emulator, tmp_path):
    uploads, alerts, errors = topics("poison")
    # Google's own client takes no such attribute; whoever speaks to the service otherwise can send it.
    poison = PubsubMessage(data=b"no image", attributes={"topic": "news", "item": "poison"})
    gapic.PublisherClient.publish(uploads._publisher, topic=uploads.path, messages=[poison])
    uploads.publish(encode(photo(1, 64, 64)), item="good").result()
    command = flags(tmp_path / "out", uploads, alerts, errors)
    with noting_proxy() as (proxied, asked), StreamProcess(tmp_path / "log", *command, **proxied) as stream:
        wait_for(lambda: stream.process.poll() is not None or (alerts.pull() and errors.pull()), START_S, "an answer")
        stream.drain()
    assert asked == []  # Beam's default runner would ask for another one
    rows = {row["attributes"]["item"]: row["error_code"] for row in read_rows(tmp_path / "out")}
    assert rows == {"good": None, "poison": "unsupported_format"}
    [(data, attributes)] = errors.received
    assert (data, attributes["item"], attributes["mdmf_cut"]) == (b"no image", "poison", "attributes")
    assert uploads.pull() == []


SIGNALS = """
import itertools, os, signal
from mdmf_ops import cli
from mdmf_ops.beam.stream.subscription import SUBSCRIPTION
from mdmf_ops.commands import stream as command
from pipelines import stream

def in_a_fork(called, *arguments):
    pid = os.fork()  # importing all of this takes seconds
    if not pid:
        called(*arguments)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print("ended by", signal.Signals(-os.waitstatus_to_exitcode(status)).name, flush=True)

def told(number, more):
    os.kill(os.getpid(), number)
    assert SUBSCRIPTION.draining.is_set() or more
    print(number.name, more or "drains", flush=True)

def told_twice(first, second):
    stream.drain_on_signals()
    told(first, "")
    told(second, "goes on")

for pair in itertools.product([signal.SIGINT, signal.SIGTERM], repeat=2):
    in_a_fork(told_twice, *pair)

def launch(_options):
    told(signal.SIGTERM, "")
    os.kill(os.getpid(), signal.SIGKILL)

stream.launch = command.launch = launch
stream.check_detector = command._check = lambda _options: None
flags = ["--subscription", "projects/p/subscriptions/s", "--output", "out"]
in_a_fork(stream.main, flags)
in_a_fork(cli.main, ["stream", *flags])
"""


@pytest.fixture(scope="module")
def signalled():
    """What a process that tries the signals prints: each pair of them, and one amid the start of either command."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_second_signal_ends_the_stream_at_once_whichever_it_is(signalled):
    assert signalled[:8] == [
        *("SIGINT drains", "ended by SIGINT", "SIGINT drains", "ended by SIGTERM"),
        *("SIGTERM drains", "ended by SIGINT", "SIGTERM drains", "ended by SIGTERM"),
    ]


def test_a_signal_that_comes_as_a_stream_begins_to_read_drains_it_too(signalled):
    assert signalled[8:] == ["SIGTERM drains", "ended by SIGKILL"] * 2


@pytest.mark.parametrize(
    ("runner", "local"),
    [
        (None, True),
        ("DirectRunner", True),
        ("direct", True),
        ("directrunner", True),
        ("BundleBasedDirectRunner", True),
        ("switchingdirect", True),
        ("apache_beam.runners.direct.direct_runner.DirectRunner", True),
        ("apache_beam.runners.direct.DirectRunner", True),
        ("TestDirectRunner", True),
        ("DataflowRunner", False),
        ("portable", False),
        ("no_such_module.DirectRunner", False),
        ("NoRunner", False),
    ],
)
def test_a_runner_of_this_machine_is_known_by_every_name_that_beam_takes(runner, local):
    from pipelines.stream import StreamOptions, is_local

    assert is_local(StreamOptions([] if runner is None else [f"--runner={runner}"])) == local


@pytest.mark.parametrize("state", ["DRAINED", "UPDATED", "CANCELLED", "FAILED"])
def test_a_job_that_was_drained_or_updated_has_not_failed(state):
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    from pipelines import stream

    class Result:
        """As Beam's, which raises for every end of a job but DONE."""

        def __init__(self):
            self.state = state

        def wait_until_finish(self):
            raise DataflowRuntimeException(f"Dataflow pipeline failed. State: {state}", self)

    if state in ("DRAINED", "UPDATED"):
        stream.wait(Result())
    else:
        with pytest.raises(DataflowRuntimeException):
            stream.wait(Result())


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    line = next((line for line in status.read_text().splitlines() if line.startswith("VmRSS")), "VmRSS: 0 kB")
    return int(line.split()[1]) / 1024


def test_the_stream_becomes_a_dataflow_job(tmp_path, monkeypatch):
    """The service cannot be had here: the job that it would be given is made, staged and read back."""
    from apache_beam.internal.gcp import auth
    from apache_beam.portability.api import beam_runner_api_pb2

    from pipelines import stream

    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)  # else it looks for credentials for 25 s
    with fake_gcs_server() as url, environment(url):
        bucket = Bucket("dataflow-bucket")
        flags = ["--subscription=projects/project-x/subscriptions/uploads", "--output=gs://dataflow-bucket/scores"]
        topics = ["--alert_topic=projects/project-x/topics/a", "--error_topic=projects/project-x/topics/e"]
        service = ["--runner=DataflowRunner", "--project=project-x", "--region=us-central1", "--sdk_location=container"]
        places = ["--temp_location=gs://dataflow-bucket/tmp", "--staging_location=gs://dataflow-bucket/staging"]
        image = ["--sdk_container_image=image", f"--template_location={tmp_path}/job.json"]
        stream.main([*flags, *topics, *service, *places, *image])
        [name] = [name for name in bucket.names("staging/") if name.endswith("/pipeline.pb")]
        pipeline = beam_runner_api_pb2.Pipeline.FromString(bucket.get(name))
    transforms = pipeline.components.transforms.values()
    urns = Counter(transform.spec.urn for transform in transforms)
    assert (urns["beam:transform:pubsub_read:v1"], urns["beam:transform:pubsub_write:v1"]) == (1, 2)
    assert not any("Acknowledge" in transform.unique_name for transform in transforms)  # the service's own doing
    assert "beam:requirement:pardo:stateful:v1" in pipeline.requirements


def test_both_pipelines_can_be_imported_in_one_process():
    from pipelines.rescan import RescanOptions
    from pipelines.stream import StreamOptions

    stream = StreamOptions(["--output=out", "--window_s=7"], runner="DirectRunner").get_all_options()
    assert (stream["output"], stream["window_s"], stream["runner"]) == ("out", 7, "DirectRunner")
    scan = RescanOptions(["--output=out", "--input=in"], alpha=0.05).get_all_options()
    assert (scan["output"], scan["input"], scan["alpha"]) == ("out", ["in"], 0.05)


WHOLE = ["--subscription=projects/p/subscriptions/s", "--output=out"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([], "--subscription is missing"),
        (["--subscription=projects/p/subscriptions/s"], "--output is missing"),
        ([*WHOLE, "--window_s=0"], "window_s=0"),
        ([*WHOLE, "--output=s3://bucket"], "s3://bucket"),
        ([*WHOLE, "--alpha=1e-9"], "alpha=1e-09"),
        ([*WHOLE, "--alpha=1e-9", "--runner=DataflowRunner"], "alpha=1e-09"),
        ([*WHOLE, "--assets=."], "manifest.json"),
        ([*WHOLE, "--local_root="], "--local_root is empty"),
    ],
)
def test_the_module_says_in_one_line_what_would_stop_it_before_anything_runs(refusal, flags, why):
    from pipelines import stream

    assert why in refusal(stream, flags)
