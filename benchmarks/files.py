"""How many files a dataset comes to, and how even they are: simulated with the code that cuts and names them.

    python benchmarks/files.py

docs/scale.md says what follows.
"""

import argparse
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from apache_beam.transforms.stats import ApproximateQuantilesCombineFn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mdmf_ops.beam.run import Run  # noqa: E402
from mdmf_ops.beam.stream.windows import LATE_WAIT_S  # noqa: E402
from mdmf_ops.beam.write import QUANTILES, ROWS_PER_FILE, cut_uris  # noqa: E402

_BUNDLES = 20
_LATE_S = 300
"""How late those are that come late, on average: assumed."""


def shard_rows(uris: Sequence[str], num_shards: int | None = None) -> list[int]:
    """Rows of each file of a run over these URIs: quantiles bundle by bundle, as a runner takes them, then the cut."""
    combine = ApproximateQuantilesCombineFn.create(num_quantiles=QUANTILES + 1)
    parts = []
    for bundle in range(_BUNDLES):
        part = combine.create_accumulator()
        for uri in uris[bundle::_BUNDLES]:
            part = combine.add_input(part, uri)
        parts.append(part)
    bounds = cut_uris(len(uris), combine.extract_output(combine.merge_accumulators(parts)), num_shards)
    counts = Counter(bisect_right(bounds, uri) for uri in uris)
    return [counts[shard] for shard in range(len(bounds) + 1)]


def archive(images: int, folders: int, hot_share: float, seed: int = 0) -> list[str]:
    """URIs of an archive of which one folder holds a share of all images; shuffled."""
    rng = np.random.default_rng(seed)
    folder = np.where(rng.random(images) < hot_share, 0, rng.integers(0, folders, images))
    return [f"gs://b/{f:05d}/{i:09d}.jpg" for f, i in zip(folder, rng.permutation(images), strict=True)]


@dataclass(frozen=True)
class Written:
    """What writing a run's shards did.

    Attributes:
        puts: files that were written whole, each a request.
        files: that lie there in the end.
        strays: that would lie there beside them, had each try a name of its own.
    """

    puts: int
    files: int
    strays: int


def write_shards(shards: int, try_fails: float, seed: int = 0) -> Written:
    """Writes shards whose tries fail: half of those that do have written the file, and die before they say so."""
    rng = np.random.default_rng(seed)
    run = Run("/out", "r", "2026-01-01", "2026-01-01T00:00:00+00:00")
    names: list[str] = []
    for shard in range(shards):
        while rng.random() < try_fails:
            if rng.random() < 0.5:
                names.append(run.data_file(shard, shards))
        names.append(run.data_file(shard, shards))
    return Written(len(names), len(set(names)), len(names) - shards)


def nightly_files(first: int, nightly: int, nights: int) -> int:
    """Files after a first scan and so many nights that find so many new images each."""

    def files(images: int) -> int:
        return len(cut_uris(images, [""] * (QUANTILES + 1), None)) + 1

    return files(first) + nights * files(nightly)


def stream_files(days: int, window_s: int, images_s: float, late: float, seed: int = 0) -> int:
    """Data files of a stream of one shard: of each window one on time, one for each 100,000 rows before that, and one
    for each minute into which late images are gathered.

    Args:
        late: share of the images that come after their window has closed, by `_LATE_S` on average.
    """
    rng = np.random.default_rng(seed)
    rows = rng.poisson(images_s * window_s, days * 24 * 3600 // window_s)
    on_time = np.ceil(rows * (1 - late))
    files = int((on_time // ROWS_PER_FILE + (on_time > 0)).sum())
    for count in rng.poisson(rows * late):
        closes_s = -1.0
        for at_s in np.sort(rng.exponential(_LATE_S, count)):
            if at_s > closes_s:
                files, closes_s = files + 1, at_s + LATE_WAIT_S
    return files


def main() -> None:
    """Prints how even files are, what retries leave, and what a year comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="of the archive that is really cut")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.images:,} images in 64 files; rows of the largest and the smallest, of the mean")
    for hot_share in (0.0, 0.5, 0.99):
        rows = np.array(shard_rows(archive(arguments.images, 1000, hot_share, arguments.seed), 64))
        print(f"one folder holds {hot_share:4.0%}     {rows.max() / rows.mean():6.2f} {rows.min() / rows.mean():6.2f}")
    print("\n1,000 files whose tries fail; written, left, and strays had each try a name of its own")
    for try_fails in (0.0, 0.01, 0.2):
        done = write_shards(1000, try_fails, arguments.seed)
        print(f"{try_fails:4.0%} {done.puts:8,} {done.files:8,} {done.strays:8,}")
    print("\nfiles after a year")
    for first, nightly in ((10_000_000, 27_000), (1_000_000_000, 2_700_000)):
        print(f"{first:13,} images, {nightly:9,} a night     {nightly_files(first, nightly, 365):8,}")
    print("\nfiles of a stream after 30 days")
    for images_s, window_s in ((1, 300), (100, 300), (100, 3600)):
        for late in (0.0, 0.001):
            count = stream_files(30, window_s, images_s, late, arguments.seed)
            print(f"{images_s:4} images/s, windows of {window_s:4} s, {late:.1%} late {count:10,}")


if __name__ == "__main__":
    main()
