"""Hours of work in minutes: a stream and a scan, watched for what grows, and counted for what is lost.

    make soak                                       30 minutes of streaming, then 50,000 images of batch
    make soak MINUTES=2 IMAGES=2000 RATE=20
    python benchmarks/soak.py --minutes 30 --rate 20 --images 50000 --report out/soak.md

Memory, descriptors and threads are those of the process and its children together, sampled every two seconds. After
a warm-up, a third of the time, a line is fitted through each. Descriptors and threads may grow by 8 in all; a stream's
memory by --max_mb_per_hour, or 40 MB in all if that is more; a scan's by --max_kb_per_image as well, since the local
runner gathers a run's rows in memory before it sorts them. Every row is counted in the Parquet. It ends with 1 where a
bound is broken.
"""

import argparse
import datetime
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from conftest import BROKEN, encode, photo, tiny  # noqa: E402
from processes import family  # noqa: E402
from pubsub import StreamProcess, pubsub_emulator, wait_for  # noqa: E402
from streams import check_dataset, flags, metrics_of, read_rows, topics  # noqa: E402

from mdmf_ops.cores import usable_cores  # noqa: E402

_SAMPLE_S = 2.0
_START_S = 300
_FREE = {"memory_mb": 40.0, "descriptors": 8.0, "threads": 8.0}
"""Growth that is no leak: caches that fill, a pool that grows to its size."""


@dataclass(frozen=True)
class Trend:
    """How a measure went after the warm-up: its median, its largest value and the slope of a line through it."""

    median: float
    largest: float
    per_hour: float
    grown: float


class Watch(threading.Thread):
    """Samples a process and its children until it is stopped."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._pid = pid
        self._done = threading.Event()
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.start()

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            if found := resources(self._pid):
                self.samples.append((time.monotonic(), found))

    def stop(self) -> dict[str, Trend]:
        """Trends of all that was sampled.

        Raises:
            ValueError: there are too few samples for a trend.
        """
        self._done.set()
        self.join()
        if len(self.samples) < 12:
            raise ValueError(f"{len(self.samples)} samples are too few for a trend: let it run for longer")
        kept = self.samples[len(self.samples) // 3 :]
        hours = np.array([at_s for at_s, _ in kept]) / 3600
        return {name: _trend(hours, np.array([found[name] for _, found in kept])) for name in _FREE}


def _trend(hours: np.ndarray, values: np.ndarray) -> Trend:
    per_hour = float(np.polyfit(hours - hours[0], values, 1)[0])
    return Trend(float(np.median(values)), float(values.max()), per_hour, per_hour * float(hours[-1] - hours[0]))


def resources(pid: int) -> dict[str, float]:
    """Resident memory, open descriptors and threads of a process and all that it started; empty once it is gone."""
    total: Counter[str] = Counter()
    for one in family(pid):
        try:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
            total["memory_mb"] += int(status["VmRSS"].split()[0]) / 1024
            total["threads"] += int(status["Threads"])
            total["descriptors"] += len(os.listdir(f"/proc/{one}/fd"))  # noqa: PTH208  # only their number is wanted
        except (OSError, KeyError):  # it ended meanwhile
            continue
    return dict(total)


def broken_bounds(trends: dict[str, Trend], mb_per_hour: float = 0.0, mb: float = 0.0) -> list[str]:
    """Which measures grew by more than they may, a line each.

    Args:
        mb_per_hour: memory may grow so fast.
        mb: memory may grow by so much more than what is no leak.
    """
    free = _FREE | {"memory_mb": _FREE["memory_mb"] + mb}
    bounds = {"memory_mb": mb_per_hour, "descriptors": 0.0, "threads": 0.0}
    return [
        f"{name} grew by {trend.grown:.1f}, {trend.per_hour:.1f} an hour"
        for name, trend in trends.items()
        if trend.grown > free[name] and trend.per_hour > bounds[name]
    ]


def soak_stream(folder: Path, minutes: float, rate: float) -> tuple[dict[str, Trend], list[str]]:
    """A stream for so long, a tenth of its messages twice, one in fifty poison. Its trends, and what is wrong."""
    rng = random.Random(0)
    images = [encode(photo(i, 64, 64)) for i in range(200)]
    poison = [*BROKEN.values(), b"{", b'{"uri": "/etc/passwd"}']
    with pubsub_emulator():
        uploads, alerts, errors = topics("soak")
        output = folder / "stream"
        with StreamProcess(folder / "log", *flags(output, uploads, alerts, errors, "--window_s", "30")) as stream:
            uploads.publish(images[0], item="warm").result()
            wait_for(alerts.pull, _START_S, "the stream's start")
            watch = Watch(stream.process.pid)
            sent, twice, latencies_s = ["warm"], 0, []
            _taken(alerts)  # the start's is no stream's
            ends_s = (began_s := time.monotonic()) + 60 * minutes
            while (now_s := time.monotonic()) < ends_s:
                if len(sent) > rate * (now_s - began_s):
                    time.sleep(0.01)
                    continue
                item, data = str(len(sent)), rng.choice(poison if len(sent) % 50 == 0 else images)
                copies = 1 + (rng.random() < 0.1)
                twice += copies - 1
                for _ in range(copies):
                    uploads.publish(data, item=item)
                sent.append(item)
                if len(sent) % 200 == 0:
                    latencies_s += _latencies_s(_taken(alerts))
                    _taken(errors)
            trends = watch.stop()
            metrics = metrics_of(stream.drain(_START_S))
        latencies_s += _latencies_s(_taken(alerts))
        left = Counter(attributes["item"] for _data, attributes in uploads.pull())
    check_dataset(output)
    rows = Counter(row["attributes"]["item"] for row in read_rows(output))
    wrong = []
    if rows != Counter(sent):
        lost = set(sent) - set(rows) - set(left)
        wrong.append(f"stream: {len(sent)} messages, {rows.total()} rows, {len(lost)} lost")
    if left or metrics["messages_duplicate"] != twice:
        found = f"{metrics['messages_duplicate']} duplicates of {twice}"
        wrong.append(f"stream: {left.total()} messages not acknowledged, {found}")
    half, most = np.percentile(latencies_s, [50, 95])
    print(f"stream: {len(sent)} messages and {twice} duplicates in {minutes:g} min, {rows.total()} rows")
    print(f"stream: {len(latencies_s)} alerts, scored {half:.2f} s after publication, p95 {most:.2f} s", flush=True)
    return trends, wrong


def _taken(topic) -> list[bytes]:
    """What a topic's messages since the last time hold; they are not kept."""
    received = [data for data, _attributes in topic.pull()]
    topic.received.clear()
    return received


def _latencies_s(alerts: list[bytes]) -> list[float]:
    """Of each alert, from the publication of its message to its score, in seconds."""
    moments = (json.loads(alert) for alert in alerts)
    return [(_moment(alert["scored_at"]) - _moment(alert["published_at"])).total_seconds() for alert in moments]


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def soak_batch(folder: Path, images: int) -> tuple[dict[str, Trend], list[str]]:
    """A scan of so many images, one in fifty of them broken. Its trends, and what is wrong."""
    source, output = folder / "images", folder / "batch"
    contents, broken = [tiny(i) for i in range(4000)], list(BROKEN.values())
    for i in range(images):
        path = source / f"{i // 1000:04d}" / f"{i:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(broken[i // 50 % len(broken)] if i % 50 == 0 else contents[i % 4000])
    command = ["--output", str(output), "--run_id", "soak", "--device", "cpu", "--json"]
    began_s = time.monotonic()
    program = ("-m", "mdmf_ops", "scan", str(source))
    with StreamProcess(folder / "log-batch", *command, "--workers", str(usable_cores()), program=program) as scan:
        watch = Watch(scan.process.pid)
        code = scan.process.wait()
    if code:
        return {}, [f"batch: the scan ended with {code}: {scan.log.read_text()[-500:]}"]
    trends, wrong = watch.stop(), []
    check_dataset(output)
    rows = Counter(row["image_uri"] for row in read_rows(output))
    if sorted(rows) != sorted(str(path) for path in source.rglob("*.png")) or rows.total() != images:
        wrong.append(f"batch: {images} images, {rows.total()} rows")
    print(f"batch: {images} images in {time.monotonic() - began_s:.0f} s, {rows.total()} rows", flush=True)
    return trends, wrong


def report(name: str, trends: dict[str, Trend]) -> str:
    """Trends as lines of a Markdown table."""
    return "".join(
        f"| {name} | {measure} | {t.median:.0f} | {t.largest:.0f} | {t.grown:+.1f} | {t.per_hour:+.1f} |\n"
        for measure, t in trends.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of streaming; 0 is none")
    parser.add_argument("--rate", type=float, default=20, help="messages a second")
    parser.add_argument("--images", type=int, default=50_000, help="of batch; 0 is none")
    parser.add_argument("--max_mb_per_hour", type=float, default=40, help="a stream's memory may grow so fast")
    parser.add_argument("--max_kb_per_image", type=float, default=16, help="a scan's memory may grow so much")
    parser.add_argument("--report", type=Path, help="write the result into this file too, as Markdown")
    arguments = parser.parse_args()
    table = "| | | median | largest | grown | an hour |\n|---|---|---|---|---|---|\n"
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mdmf-soak-") as folder:
        if arguments.minutes:
            trends, found = soak_stream(Path(folder), arguments.minutes, arguments.rate)
            table += (part := report(f"stream, {arguments.minutes:g} min at {arguments.rate:g}/s", trends))
            print(part, flush=True)  # at once: the batch may yet fail
            wrong += found + [f"stream: {line}" for line in broken_bounds(trends, arguments.max_mb_per_hour)]
        if arguments.images:
            trends, found = soak_batch(Path(folder), arguments.images)
            table += report(f"batch, {arguments.images} images", trends)
            rows_mb = arguments.images * arguments.max_kb_per_image / 1024
            wrong += found + [f"batch: {line}" for line in broken_bounds(trends, mb=rows_mb)]
    table += "\n" + ("\n".join(wrong) if wrong else "Nothing lost, nothing twice, nothing grew.") + "\n"
    print(table)
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(table)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
