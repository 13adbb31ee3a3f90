"""A rescan on paper: a model from measured constants, and a simulation of what the model leaves out.

    python benchmarks/scale.py                      a table for 10 M, 1 B and 100 B images
    python benchmarks/scale.py --images 1e9 --workers 2000

docs/scale.md says where the constants come from and what follows.
"""

import argparse
import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constants:
    """What one image costs. Prices in USD.

    Attributes:
        score_s: CPU time from bytes to score, one core (measured; see docs/dataflow.md).
        image_bytes: mean encoded size (assumed).
        read_s: time to the last byte, of which 32 overlap a core (assumed).
        row_bytes: in Parquet (measured).
        packed_bytes: of a row, on its way to the writer (measured).
        list_page_s: a request for a thousand names (assumed).
        busy: share of worker time that is spent on images (assumed).
    """

    score_s: float = 0.12
    image_bytes: float = 300e3
    read_s: float = 0.06
    row_bytes: float = 1.3e3
    ref_bytes: float = 500
    packed_bytes: float = 500
    list_page_s: float = 0.15
    list_parts: int = 64
    write_rows_s: float = 40e3
    rows_per_file: int = 100_000
    most_files: int = 1000
    busy: float = 0.75
    core_hour: float = 0.056 + 4 * 0.003557
    shuffle_gb: float = 0.011
    read_1000: float = 0.0004
    list_1000: float = 0.005


def model(images: float, cores: int, constants: Constants | None = None) -> dict[str, float]:
    """Hours, files and USD of a rescan of so many images on so many cores, all of them new."""
    c = constants or Constants()
    files = min(c.most_files, -(-images // c.rows_per_file))
    scoring_h = images * max(c.score_s, c.read_s / 32) / cores / c.busy / 3600
    return {
        "listing_h": images / 1000 * c.list_page_s / c.list_parts / 3600,
        "scoring_h": scoring_h,
        "writing_h": images / c.write_rows_s / min(files, cores) / 3600,
        "reads_per_s": images / (scoring_h * 3600),
        "read_gbit_per_s": images * c.image_bytes * 8e-9 / (scoring_h * 3600),
        "files": files,
        "file_gb": images * c.row_bytes / files / 1e9,
        "cores_usd": scoring_h * cores * c.core_hour,
        "requests_usd": images / 1000 * c.read_1000 + images / 1e6 * c.list_1000,
        "shuffle_usd": images * (3 * c.ref_bytes + c.packed_bytes) / 1e9 * c.shuffle_gb,
    }


@dataclass(frozen=True)
class Faults:
    """What goes wrong, each with a probability.

    Attributes:
        slow_workers, slowdown: share of workers that take `slowdown` times as long.
        bundle_fails: of a try of a bundle, which loses the work of that try.
        most_tries: of a bundle; the run fails once one has failed so often. 4, as on Dataflow in batch.
        hot_share: share of all images in the largest bundle: one part of a listing that cannot be cut.
    """

    slow_workers: float = 0.0
    slowdown: float = 1.0
    bundle_fails: float = 0.0
    most_tries: int = 4
    hot_share: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A simulated rescan: `done + lost == images`; a run that lost any is not committed."""

    duration_s: float
    done: int
    lost: int
    tries: int
    busy_share: float


def simulate(images: int, workers: int, bundles: int, image_s: float, faults: Faults, seed: int = 0) -> Outcome:
    """Workers take one bundle after the other from a queue; a failed one goes to its end.

    Args:
        image_s: of one image on a worker of ordinary speed.
    """
    rng = np.random.default_rng(seed)
    speed_s = image_s * np.where(rng.random(workers) < faults.slow_workers, faults.slowdown, 1.0)
    sizes = _cut(images, bundles, faults.hot_share)
    queue = [(0.0, worker) for worker in range(workers)]
    waiting = [(int(size), 1) for size in sizes if size][::-1]
    done = lost = tries = 0
    end_s = busy_s = 0.0
    while waiting:
        size, attempt = waiting.pop()
        at_s, worker = heapq.heappop(queue)
        failed = rng.random() < faults.bundle_fails
        taken_s = size * speed_s[worker] * (rng.random() if failed else 1.0)
        tries, busy_s, end_s = tries + 1, busy_s + taken_s, max(end_s, at_s + taken_s)
        heapq.heappush(queue, (at_s + taken_s, worker))
        if not failed:
            done += size
        elif attempt < faults.most_tries:
            waiting.insert(0, (size, attempt + 1))
        else:
            lost += size
    return Outcome(end_s, done, lost, tries, busy_s / (end_s * workers) if end_s else 1.0)


def _cut(images: int, bundles: int, hot_share: float) -> np.ndarray:
    """Sizes of the bundles, of about the same size but for the first."""
    hot = round(images * hot_share)
    rest = images - hot
    sizes = np.full(bundles, rest // bundles)
    sizes[: rest % bundles] += 1
    return np.concatenate([[hot], sizes])


def _table(rows: dict[str, dict[str, float]]) -> None:
    names = next(iter(rows.values()))
    print(f"{'':18}" + "".join(f"{title:>20}" for title in rows))
    for name in names:
        print(f"{name:18}" + "".join(f"{row[name]:20,.4g}" for row in rows.values()))


def main() -> None:
    """Prints the model, then faults one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, nargs="+", default=[1e7, 1e9, 1e11])
    parser.add_argument("--workers", type=int, nargs="+", default=[80, 4000, 100_000], help="cores, one for each size")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sizes = zip(arguments.images, arguments.workers, strict=True)
    _table({f"{images:.0e} on {cores}": model(images, cores) for images, cores in sizes})

    images, workers, bundles = 10_000_000, 400, 20_000
    print(f"\n{images:,} images, {workers} workers, {bundles:,} bundles; hours, share busy, tries, images lost")
    for name, faults, count in (
        ("nothing goes wrong", Faults(), bundles),
        ("5 % of workers 5 times slower", Faults(slow_workers=0.05, slowdown=5), bundles),
        ("the same, 800 bundles", Faults(slow_workers=0.05, slowdown=5), 800),
        ("1 % of tries fail", Faults(bundle_fails=0.01), bundles),
        ("20 % of tries fail", Faults(bundle_fails=0.2), bundles),
        ("1 % of images in one bundle", Faults(hot_share=0.01), bundles),
    ):
        out = simulate(images, workers, count, Constants().score_s, faults, arguments.seed)
        print(f"{name:32}{out.duration_s / 3600:8.2f} {out.busy_share:6.1%} {out.tries:8,} {out.lost:10,}")


if __name__ == "__main__":
    main()
