"""Images a second, side by side: `mdmf scan` and what a user would pick instead, on the same images and detector.

    make bench                                              the whole comparison, hours
    python benchmarks/bench.py --quick                      a glance, a few minutes
    python benchmarks/bench.py --images DIR --sizes 12mp --rounds 5 --count 500

Contenders take turns, round by round, each in a process of its own, so that a busy machine slows all of them. Scores
must be equal. Memory is watched in a run of its own before the rounds. Ratios are taken within a round; times depend
on the machine. Rates are of the steady state, from a tenth of the scores to nine tenths of them; `with_start_per_s` is
from the start of the process to its end, of scan with the committed Parquet. `ideal` is 1 / (decode + model) over all
cores, from a bare loop on every core, which also says what decoding only and the model only would give. `without Beam`
does all that a scan does with an image, in bare loops.
"""

import argparse
import csv
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from processes import family  # noqa: E402

from mdmf_ops.commands.terminal import every  # noqa: E402

CONTENDERS = (
    *("ideal", "mdmf scan", "without Beam"),
    *("DataLoader", "DataLoader, scoring", "Ray Data", "Beam, stock handler"),
)
SIZES = {"400px": (400, 300), "1mp": (1152, 864), "12mp": (4000, 3000)}
PACKAGES = ("torch", "onnxruntime", "pillow", "simplejpeg", "apache-beam", "ray", "numpy")
_DISTINCT = {"400px": 500, "1mp": 200, "12mp": 48}
"""Images that are made; the rest are links to them."""
_LARGEST_ERROR = 1e-3  # Of a score; threads and batches add up in other orders.


def make_images(folder: Path, photographs: Path, size: str, count: int) -> None:
    """Fills a folder with JPEGs made of photographs: laid side by side at native resolution, and encoded again."""
    files = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise SystemExit(f"{photographs}: no .jpg or .png in it; name another folder with --images")
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    distinct = min(count, _DISTINCT[size])
    for i in range(distinct):
        canvas = Image.new("RGB", SIZES[size])
        top = 0
        while top < canvas.height:
            left = row_px = 0
            while left < canvas.width:
                part = Image.open(files[rng.integers(len(files))]).convert("RGB")
                canvas.paste(part, (left, top))
                left, row_px = left + part.width, part.height if not row_px else min(row_px, part.height)
            top += row_px
        canvas.save(folder / f"{i:05}.jpg", quality=int(rng.integers(75, 96)))
    for i in range(distinct, count):
        os.link(folder / f"{i % distinct:05}.jpg", folder / f"{i:05}.jpg")


def run(name: str, images: Path, workers: int, work: Path, watched: bool = False) -> dict[str, Any]:
    """One contender once: what it says of itself and, where it is watched, the most memory that its processes held
    together. To look takes a tenth of a core: a watched run is not timed.
    """
    result = work / "result.json"
    environment = os.environ | {"BENCH_STARTED_S": str(time.time()), "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"}
    command = [sys.executable, str(ROOT / "benchmarks/contenders.py"), name, str(images), str(result), str(workers)]
    with open(work / "log", "w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        held_kb = [0]
        with every(0.2, lambda: held_kb.append(tree_kb(process.pid))) if watched else nullcontext():
            status = process.wait()
        if status:
            log.seek(0)
            raise SystemExit(f"{name} failed:\n{log.read()[-3000:]}")
    return json.loads(result.read_text()) | ({"peak_mb": max(held_kb) / 1024} if watched else {})


def tree_kb(root: int) -> int:
    """Memory of a process and all that descend from it; what they share counts once."""
    total = 0
    for pid in family(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total


def check_equal(name: str, scores: dict[str, float], expected: dict[str, float]) -> None:
    """Raises SystemExit where a contender did not score the same images alike."""
    if scores.keys() != expected.keys():
        raise SystemExit(f"{name}: {len(scores)} images scored, expected {len(expected)}: not the same work")
    worst = max(abs(scores[image] - expected[image]) for image in expected)
    if worst > _LARGEST_ERROR:
        raise SystemExit(f"{name}: a score is {worst:.2g} off: not the same work")


def describe_machine() -> dict[str, Any]:
    """What a time depends on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "machine": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 1),
        "versions": " ".join(f"{package}=={version}" for package, version in versions.items()),
    }


def summarise(rounds: list[dict[str, dict[str, Any]]], peaks_mb: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each contender: medians over the rounds, the range of the rate, and its memory."""
    rows = []
    for name in rounds[0]:
        rates = [each[name]["images_per_s"] for each in rounds]

        def median(key: str, name: str = name) -> float | None:
            values = [each[name][key] for each in rounds if key in each[name]]
            return round(statistics.median(values), 4) if values else None

        def ratio(other: str, rates: list[float] = rates) -> float | None:
            if other not in rounds[0]:
                return None
            others = [each[other]["images_per_s"] for each in rounds]
            return round(statistics.median(rate / o for rate, o in zip(rates, others, strict=True)), 3)

        rows.append(
            {
                "contender": name,
                "images_per_s": round(statistics.median(rates), 2),
                "least": round(min(rates), 2),
                "most": round(max(rates), 2),
                "with_start_per_s": median("with_start_per_s"),
                "start_s": median("start_s"),
                "decode_only_per_s": median("decode_only_per_s"),
                "model_only_per_s": median("model_only_per_s"),
                "peak_mb": round(peaks_mb[name]),
                "to_ideal": ratio("ideal"),
                "to_without_beam": ratio("without Beam"),
                "to_dataloader": ratio("DataLoader"),
                "to_ray": ratio("Ray Data"),
                "rounds": len(rounds),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT / "samples", help="photographs that the sets are made of")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--count", type=int, default=2000, help="images of a set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of each")
    parser.add_argument(
        "--csv", type=Path, default=ROOT / "benchmarks/bench.csv", help="append the results to this file"
    )
    parser.add_argument("--quick", action="store_true", help="80 images (40 of 12 megapixels), one round")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(" ".join(f"{key}: {value};" for key, value in machine.items()))
    for size in arguments.sizes:
        count, turns = arguments.count, arguments.rounds
        if arguments.quick:
            count, turns = 40 if size == "12mp" else 80, 1
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            work = Path(folder)
            make_images(work / "images", arguments.images, size, count)
            peaks_mb = {}
            for name in arguments.contenders:
                peaks_mb[name] = run(name, work / "images", arguments.workers, work, watched=True)["peak_mb"]
                print(f"{size}: {name} {peaks_mb[name]:.0f} MB", file=sys.stderr)
            rounds = []
            for turn in range(turns):
                # Another one first in every round.
                first = turn % len(arguments.contenders)
                order = arguments.contenders[first:] + arguments.contenders[:first]
                found = {}
                for name in order:
                    found[name] = run(name, work / "images", arguments.workers, work)
                    rate = found[name]["images_per_s"]
                    print(f"{size}, round {turn + 1} of {turns}: {name} {rate:.1f} images/s", file=sys.stderr)
                expected = found[order[0]]["scores"]
                for name in order:
                    check_equal(name, found[name].pop("scores"), expected)
                rounds.append({name: found[name] for name in arguments.contenders})
        rows = summarise(rounds, peaks_mb)
        print(f"\n{size}, {count} images")
        for key in rows[0]:
            print(f"{key:18}" + "".join(f"{'' if row[key] is None else row[key]:>20}" for row in rows))
        new = not arguments.csv.exists()
        with open(arguments.csv, "a", newline="") as file:
            writer = csv.DictWriter(file, ["size", "count", *rows[0], *machine])
            if new:
                writer.writeheader()
            writer.writerows({"size": size, "count": count, **row, **machine} for row in rows)


if __name__ == "__main__":
    main()
