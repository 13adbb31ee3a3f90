"""A scan that is killed at random moments, and what its rerun makes of it.

MDMF_FULL=1 kills ten times over 2,000 images instead of three times over 200.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import duckdb
import emulators
import pytest
from conftest import FULL, tiny
from emulators import Bucket

from mdmf_ops.beam.runs import strays, verify_run

IMAGES, KILLS = (2000, 10) if FULL else (200, 3)
RUN_ID = "killed"
DEADLINE_S = 600


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Half of the images in a folder, half in a bucket."""
    folder = tmp_path_factory.mktemp("images")
    with emulators.fake_gcs_server() as url, emulators.environment(url):
        bucket = Bucket("killed")
        for i in range(IMAGES):
            if i % 2:
                bucket.put(f"in/{i:04d}.png", tiny(i))
            else:
                (folder / f"{i:04d}.png").write_bytes(tiny(i))
        yield (
            [str(folder), bucket.uri("in")],
            sorted([*map(str, folder.iterdir()), *(bucket.uri(name) for name in bucket.names())]),
        )


def start(sources, output):
    """`mdmf scan` in a process group of its own."""
    command = [sys.executable, "-m", "mdmf_ops", "scan", *sources, "--output", str(output), "--run_id", RUN_ID]
    return subprocess.Popen(
        [*command, "--workers", "2", "--num_shards", "6", "--device", "cpu", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors


def kill(process, after_s):
    """Kills the whole group at a moment of its run, and waits until nobody of it is left."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlived its process group's kill")


class Watch(threading.Thread):
    """Looks again and again whether a manifest lists a file that is not there."""

    def __init__(self, output):
        super().__init__(daemon=True)
        self.output, self.done = output, threading.Event()
        self.looks, self.broken_promises = 0, []

    def run(self):
        path = self.output / "_runs" / f"{RUN_ID}.json"
        while not self.done.is_set():
            try:
                before = path.read_text()
                missing = [f["path"] for f in json.loads(before)["files"] if not (self.output / f["path"]).exists()]
                # A file may go once its manifest is gone; the promise is broken only if that is still there.
                if missing and path.read_text() == before:
                    self.broken_promises.append(missing)
                self.looks += 1
            except FileNotFoundError:
                pass
            self.done.wait(0.002)


def test_killed_at_random_moments_the_rerun_gives_every_image_exactly_one_row(sources, tmp_path):
    names, expected = sources
    output = tmp_path / "out"
    watch = Watch(output)
    watch.start()
    began_s = time.monotonic()
    finish(start(names, output))
    whole_s = time.monotonic() - began_s
    rng = random.Random(20260101)
    moments_s = [rng.uniform(0.1, 1.0) * whole_s for _ in range(KILLS)]
    for moment_s in moments_s:
        kill(start(names, output), moment_s)
    finish(start(names, output))
    watch.done.set()
    watch.join()

    manifest = json.loads((output / "_runs" / f"{RUN_ID}.json").read_text())
    uris = duckdb.sql(
        f"select image_uri from read_parquet('{output}/**/*.parquet', hive_partitioning = true) order by image_uri"
    ).fetchall()
    assert [uri for (uri,) in uris] == expected
    assert manifest["inputs"] == IMAGES == manifest["counts"]["status"]["scored"]
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert files == {f"_runs/{RUN_ID}.json", *(file["path"] for file in manifest["files"])}
    # Of a day that ended amid the test, the folder stays behind, empty.
    folders = [path.name for path in output.iterdir() if not path.match("scan_date=*") or any(path.iterdir())]
    assert sorted(folders) == ["_runs", f"scan_date={manifest['scan_date']}"]
    assert verify_run(str(output), manifest) == [] and strays(str(output)) == []
    assert watch.looks > 0
    assert watch.broken_promises == []
