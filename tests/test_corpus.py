"""Every file of the corpus: one row, the code that it must get, within bounds of time and memory."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from corpus.make import SCORED, cases
from fuzz import fuzz
from isolated import decode_isolated

from mdmf_ops.beam.image import Image, ImageRef
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.score import make_row
from mdmf_ops.detector import Detector, ErrorCode, ImageError, Limits
from mdmf_ops.images.tiles import TileGeometry
from mdmf_ops.schema import to_table

CORPUS = {name: (content, expected) for name, content, expected in cases()}
GEOMETRY = TileGeometry(patch_px=32, max_tile_px=256, max_tiles=16)
MAX_BYTES = 600_000_000


def test_the_corpus_is_small_and_its_names_and_codes_are_in_order():
    made = list(cases())
    assert len(made) == len(CORPUS) > 400
    assert sum(len(content) for _, content, _ in made) < 2_000_000
    codes = {code.value for code in ErrorCode}
    assert {expected for _, _, expected in made} <= codes | {SCORED}
    again = {name for name, content, _ in cases() if content != CORPUS[name][0]}
    assert again <= {"animated.avif"}, "made anew, the same bytes, but for the time in this one"


@pytest.mark.parametrize("name", CORPUS)
def test_a_file_of_the_corpus_gets_its_code(name):
    content, expected = CORPUS[name]
    try:
        decode_isolated(content, GEOMETRY, Limits())
        found = SCORED
    except ImageError as error:
        found = error.code.value
        assert error.message and len(error.message) <= 300 and error.message.isprintable()
    assert found == expected


def test_the_corpus_is_scored_into_one_valid_row_a_file():
    detector = Detector.load(device="cpu")
    run = Run("/out", "test", "2026-01-02", "2026-01-02T00:00:00+00:00")
    contents = [content for content, _ in CORPUS.values()]
    results = detector.score(contents)
    rows = [
        make_row(Image(ImageRef(f"/in/{name}"), content), result, detector, run)
        for name, content, result in zip(CORPUS, contents, results, strict=True)
    ]
    assert to_table(rows).num_rows == len(CORPUS)
    assert [row["error_code"] or SCORED for row in rows] == [expected for _, expected in CORPUS.values()]


BOUNDED = """
import json, os, resource, sys, time
from corpus.make import cases
from mdmf_ops.detector import ImageError, decode
from pathlib import Path
data_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
limit_bytes = data_bytes + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found, slowest_s = {}, 0
for name, content, _ in cases():
    started_s = time.process_time()
    try:
        decode(content).crop((0, 0, 64, 64))
        found[name] = "scored"
    except ImageError as error:
        found[name] = error.code.value
    slowest_s = max(slowest_s, time.process_time() - started_s)
grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib)
print(json.dumps([found, slowest_s, grown_bytes]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_the_corpus_takes_little_time_and_memory_even_without_isolation():
    command = [sys.executable, "-c", BOUNDED, str(MAX_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "tests", env=environment())
    assert done.returncode == 0, done.stderr
    found, slowest_s, grown_bytes = json.loads(done.stdout)
    assert found == {name: expected for name, (_, expected) in CORPUS.items()}
    assert slowest_s < 5
    assert grown_bytes < MAX_BYTES


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}


def test_mutations_of_the_corpus_end_as_tiles_or_as_a_documented_error():
    seed = int(time.time()) // 86_400  # another one each day
    outcomes, findings, slowest_s, peak_bytes = fuzz(seed, inputs=300)
    assert not findings, f"seed {seed}: {findings[0]}"
    assert sum(outcomes.values()) == 300
    assert outcomes["scored"] and outcomes["corrupt"] and outcomes["truncated"]
    assert slowest_s < 60
    assert peak_bytes < MAX_BYTES


def test_the_fuzzer_makes_the_same_inputs_from_the_same_seed_and_finds_what_crashes(monkeypatch):
    def crash(content, *_):
        made.append(content)
        raise ImageError(ErrorCode.DECODER_CRASHED, "SIGSEGV")

    monkeypatch.setattr("fuzz.decode_isolated", crash)
    made = []
    findings = [fuzz(seed, 20)[1] for seed in (3, 3, 4)]
    assert [len(found) for found in findings] == [20, 20, 20]
    assert made[:20] == made[20:40] != made[40:]
