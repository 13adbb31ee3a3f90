"""From publishing an upload to receiving its alert, end to end: `mdmf stream` against Google's Pub/Sub emulator.

    python benchmarks/stream_latency.py                      50 messages/s for 30 s
    python benchmarks/stream_latency.py --rate 20 --side_px 512 --csv benchmarks/stream_latency.csv

Every verdict is an alert here, and each is waited for. Also measured is how many such images the detector alone scores
in a second on one core: the rate's share of that, over all cores, says how busy the machine was. A line of the CSV is
one run.
"""

import argparse
import csv
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import encode, photo  # noqa: E402
from pubsub import StreamProcess, Topic, pubsub_emulator, wait_for  # noqa: E402

from mdmf_ops.detector import Detector  # noqa: E402

_WARM_UP = 32
_START_S = 180


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=50, help="messages a second")
    parser.add_argument("--duration_s", type=float, default=30)
    parser.add_argument("--side_px", type=int, default=64, help="of the images, square JPEGs")
    parser.add_argument("--csv", type=Path, help="append the result to this file")
    arguments = parser.parse_args()
    count = int(arguments.rate * arguments.duration_s)
    images = [encode(photo(i, arguments.side_px, arguments.side_px)) for i in range(_WARM_UP + min(count, 500))]
    per_core = _images_per_second(images)
    with tempfile.TemporaryDirectory() as folder, pubsub_emulator():
        latencies_s, worst_behind_s = _measure(Path(folder), images, count, arguments.rate)
    result = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "detector_id": Detector.load(device="cpu").assets.detector_id,
        "side_px": arguments.side_px,
        "rate": arguments.rate,
        "messages": count,
        "alerts": len(latencies_s),
        "capacity": round(per_core * len(os.sched_getaffinity(0)), 1),
        "load_1min": round(os.getloadavg()[0], 1),
        "p50_s": round(float(np.quantile(latencies_s, 0.5)), 3),
        "p95_s": round(float(np.quantile(latencies_s, 0.95)), 3),
        "max_s": round(max(latencies_s), 3),
        "publisher_behind_s": round(worst_behind_s, 3),
    }
    for name, value in result.items():
        print(f"{name:20} {value}")
    print(f"{'share_of_capacity':20} {arguments.rate / result['capacity']:.2f}")
    if arguments.csv:
        new = not arguments.csv.exists()
        with open(arguments.csv, "a", newline="") as file:
            writer = csv.DictWriter(file, result)
            if new:
                writer.writeheader()
            writer.writerow(result)
    return 0


def _images_per_second(images: list[bytes]) -> float:
    """What the detector alone scores on one core."""
    torch.set_num_threads(1)
    detector = Detector.load(device="cpu")
    detector.score(images[:4])
    chosen = images[:64]
    started_s = time.perf_counter()
    detector.score(chosen)
    return len(chosen) / (time.perf_counter() - started_s)


def _measure(folder: Path, images: list[bytes], count: int, rate: float) -> tuple[list[float], float]:
    """Seconds from publication to alert of each message, and how late the publisher was at worst."""
    from google.cloud import pubsub_v1

    uploads, alerts = Topic("uploads"), Topic("alerts")
    sent_s: dict[str, float] = {}
    received_s: dict[str, float] = {}
    lock = threading.Lock()

    def receive(message) -> None:
        now_s = time.monotonic()
        item = json.loads(message.data)["attributes"]["item"]
        with lock:
            received_s.setdefault(item, now_s)
        message.ack()

    flags = ["--subscription", uploads.subscription, "--alert_topic", alerts.path, "--output", str(folder / "out")]
    more = ["--verdicts", "likely_ai,uncertain,likely_real", "--device", "cpu", "--json"]
    client = pubsub_v1.SubscriberClient()
    pull = client.subscribe(alerts.subscription, receive)
    with StreamProcess(folder / "log", *flags, *more) as stream:
        for i in range(_WARM_UP):
            uploads.publish(images[i], item=f"warm{i}")
        wait_for(lambda: len(received_s) == _WARM_UP, _START_S, "the stream's start")
        behind_s = 0.0
        started_s = time.monotonic()
        for i in range(count):
            due_s = started_s + i / rate
            time.sleep(max(0.0, due_s - time.monotonic()))
            behind_s = max(behind_s, time.monotonic() - due_s)
            sent_s[str(i)] = time.monotonic()
            uploads.publish(images[_WARM_UP + i % (len(images) - _WARM_UP)], item=str(i))
        wait_for(lambda: len(received_s) == _WARM_UP + count, 120, "the last alerts")
        stream.drain()
    pull.cancel()
    pull.result(timeout=30)
    return [received_s[item] - sent_s[item] for item in sent_s], behind_s


if __name__ == "__main__":
    sys.exit(main())
