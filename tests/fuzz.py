"""Decodes mutations of the corpus, as a hostile reviewer would: `make fuzz`.

    python tests/fuzz.py --inputs 20000 --seed 0

Every input must come out as tiles or as an error of the closed list, from a decoder that neither dies nor hangs. One
that does not is written to --findings, and the exit status is 1. The same seed makes the same inputs.
"""

import argparse
import collections
import hashlib
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
from corpus.make import cases
from isolated import decode_isolated

from mdmf_ops.detector import ErrorCode, ImageError, Limits
from mdmf_ops.images import isolation
from mdmf_ops.images.tiles import TileGeometry

GEOMETRY = TileGeometry(patch_px=32, max_tile_px=256, max_tiles=16)
FINDINGS = {ErrorCode.DECODER_CRASHED, ErrorCode.TIMEOUT, ErrorCode.INTERNAL}
MAX_SEED_BYTES = 70_000

INTERESTING = [bytes([value]) * size for value in (0, 1, 0x7F, 0x80, 0xFF) for size in (1, 2, 4, 8)]


def seeds() -> list[bytes]:
    return [content for _, content, _ in cases() if 0 < len(content) < MAX_SEED_BYTES]


def mutate(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One to five changes: bits, numbers, cut, doubled and foreign stretches; most of them in the headers."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        within = min(len(data), 600) if rng.random() < 0.6 else len(data)
        at, size = int(rng.integers(within + 1)), int(rng.integers(1, 64))
        match rng.integers(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.integers(8)
            case 1:
                number = INTERESTING[rng.integers(len(INTERESTING))]
                data[at : at + len(number)] = number
            case 2:
                data[at : at + size] = rng.bytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size] * int(rng.integers(1, 8))
            case 5:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(len(other)))
                data[at : at + size] = other[start : start + size]
            case 6 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def fuzz(seed: int, inputs: int) -> tuple[collections.Counter, list[tuple[str, bytes]], float, int]:
    """Outcomes, findings, the slowest input in s, and the peak of a decoder's memory in bytes."""
    rng, originals = np.random.default_rng(seed), seeds()
    outcomes, findings, slowest_s = collections.Counter(), [], 0.0
    for _ in range(inputs):
        content = mutate(originals[rng.integers(len(originals))], originals, rng)
        started_s = time.monotonic()
        try:
            decode_isolated(content, GEOMETRY, Limits())
            outcomes["scored"] += 1
        except ImageError as error:
            outcomes[error.code.value] += 1
            if error.code in FINDINGS:
                findings.append((str(error), content))
        except Exception as error:
            findings.append((f"{type(error).__name__}: {error}", content))
        slowest_s = max(slowest_s, time.monotonic() - started_s)
    return outcomes, findings, slowest_s, _peak_bytes()


def _peak_bytes() -> int:
    status = Path(f"/proc/{isolation._idle[-1]._process.pid}/status") if isolation._idle else Path()
    if not status.is_file():
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def _fuzz(task: tuple[int, int]):
    return fuzz(*task)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--findings", type=Path, default=Path("out/fuzz"))
    arguments = parser.parse_args()
    started_s = time.monotonic()
    share = -(-arguments.inputs // arguments.processes)
    tasks = [(1000 * arguments.seed + number, share) for number in range(arguments.processes)]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        results = pool.map(_fuzz, tasks, chunksize=1)
    outcomes = sum((result[0] for result in results), collections.Counter())
    slowest_s, peak_mb = max(result[2] for result in results), max(result[3] for result in results) / 1e6
    print(f"{sum(outcomes.values())} inputs in {time.monotonic() - started_s:.0f} s")
    print(f"slowest {slowest_s:.2f} s; a decoder's peak {peak_mb:.0f} MB")
    for outcome, count in outcomes.most_common():
        print(f"  {outcome:20}{count}")
    findings = [finding for result in results for finding in result[1]]
    for message, content in findings:
        arguments.findings.mkdir(parents=True, exist_ok=True)
        path = arguments.findings / hashlib.sha256(content).hexdigest()[:16]
        path.write_bytes(content)
        print(f"{path}: {message}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
