"""One network for several processes, as they share it where it is on a GPU; here it is on the CPU."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import AuthenticationError
from pathlib import Path

import pytest
import torch
from apache_beam.utils import multi_process_shared
from conftest import BROKEN, ROOT, copy_detector, encode, photo, write_images
from scans import read_rows, scan

from mdmf_ops.beam import shared
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.beam.shared import SharedDetector, private_folder, private_key
from mdmf_ops.detector import Detector, ErrorCode, ImageError

SHARED = DetectorOptions(device="cpu", share=True)

WORKER = """
import json, os, sys, torch
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.detector import Detector

torch.set_num_threads(1)
loads = 0
load = Detector.load.__func__

def counted(cls, *args, **kwargs):
    global loads
    loads += 1
    return load(cls, *args, **kwargs)

Detector.load = classmethod(counted)
detector = DetectorOptions(device="cpu", share=True).load(None)
for line in sys.stdin:
    [result] = detector.score([open(line.strip(), "rb").read()])
    said = {"loads": loads, "mmd2": result.mmd2, "row": detector.assets.detector_id}
    print(json.dumps(said), flush=True)
"""


@pytest.fixture(autouse=True, scope="module")
def own_folder(tmp_path_factory):
    """Other tests of this machine must not find the networks of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("shared")))
        yield


class Worker:
    """A process that scores with the network it shares."""

    def __init__(self, folder):
        environment = {**os.environ, "TMPDIR": str(folder)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, env=environment, **pipes)

    def score(self, path):
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self):
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(count, folder):
    started = [Worker(folder) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photo(1), "PNG"))
    return path


def test_two_processes_load_one_network_and_the_other_takes_over_when_its_process_is_killed(image, tmp_path):
    [expected] = Detector.load(device="cpu").score([image.read_bytes()])
    with workers(2, tmp_path) as pair:
        first = [worker.score(image) for worker in pair]
        assert sorted(said["loads"] for said in first) == [0, 1]
        assert {said["mmd2"] for said in first} == {expected.mmd2}

        owner = [said["loads"] for said in first].index(1)
        pair[owner].kill()
        assert pair[1 - owner].score(image) == first[owner]


def test_a_shared_detector_says_what_one_of_ones_own_does():
    batch = [encode(photo(i), "PNG") for i in range(6)] + [BROKEN["half.png"]]
    ours, own = SHARED.load(None), Detector.load(device="cpu")
    assert (ours.terms.device, ours.terms.precision, ours.assets) == ("cpu", "float32", own.assets)
    for found, expected in zip(ours.score(batch), own.score(batch), strict=True):
        if isinstance(expected, ImageError):
            assert (found.code, found.message) == (expected.code, expected.message)
        else:
            assert (found.mmd2, found.p_value, found.plan) == (expected.mmd2, expected.p_value, expected.plan)
            assert found.evidence.tobytes() == expected.evidence.tobytes()


def test_memory_that_runs_out_across_the_socket_is_a_failed_image(image, monkeypatch):
    def no_room(_detector, _tiles):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory (injected)")

    monkeypatch.setattr(Detector, "evidence", no_room)
    mine = SHARED.load(None)
    # The process that has the network calls it directly; this one goes through the socket, as the others do.
    monkeypatch.setattr(shared, "MultiProcessShared", lambda *a, **k: shared_by_beam(*a, always_proxy=True, **k))
    other = SHARED.load(None)
    for detector in (mine, other):
        [error] = detector.score([image.read_bytes()])
        assert error.code is ErrorCode.OUT_OF_MEMORY


shared_by_beam = shared.MultiProcessShared


def test_another_detector_is_another_network_and_one_that_nobody_holds_is_gone(tmp_path, monkeypatch):
    alive = set()

    class Counted(shared._Network):
        def __init__(self, load):
            super().__init__(load)
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(shared, "_Network", Counted)
    ids = {name: copy_detector(tmp_path / name, name) for name in ("one", "two")}
    one, again, two = (SHARED.load(str(tmp_path / name)) for name in ("one", "one", "two"))
    assert [d.assets.detector_id for d in (one, again, two)] == [ids["one"], ids["one"], ids["two"]]
    assert len(alive) == 2
    del one
    assert len(alive) == 2
    del again
    assert len(alive) == 1
    del two
    assert not alive


def test_a_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Path(private_folder())
    assert (folder.stat().st_mode & 0o777, folder.parent) == (0o700, tmp_path)
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="its owner alone"):
        private_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="its owner alone"):
        private_folder()


def test_nobody_is_let_in_with_beams_key_or_none(image):
    mine = SHARED.load(None)
    host, port = Path(private_folder(), f"{mine._tag}.address").read_text().split(":")
    for key, let_in in ((b"mps", False), (b"", False), (private_key(), True)):
        stranger = multi_process_shared._SingletonRegistrar((host, int(port)), authkey=key)
        with nullcontext() if let_in else pytest.raises(AuthenticationError):
            stranger.connect()
    assert mine.score([image.read_bytes()])


def test_the_key_is_made_once_and_read_by_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: private_key(), range(64)))
    assert [len(key) for key in keys] == [32]
    [file] = Path(private_folder()).iterdir()
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (keys.pop(), 0o600)


@pytest.mark.parametrize(
    ("device", "cuda", "share"), [("auto", True, True), ("auto", False, False), ("cpu", True, False)]
)
def test_a_network_is_shared_where_it_is_on_a_gpu(monkeypatch, device, cuda, share):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(SharedDetector, "__init__", lambda *_args, **_options: None)
    assert isinstance(DetectorOptions(device=device).load(None), SharedDetector) == share


def test_a_scan_on_two_processes_that_share_has_the_rows_of_one_process(tmp_path, monkeypatch):
    images = write_images(tmp_path / "images", good=12, broken=4)
    scan(images, tmp_path / "one")
    default = DetectorOptions.__init__.__defaults__
    monkeypatch.setattr(DetectorOptions.__init__, "__defaults__", (*default[:-1], True))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the workers
    scan(images, tmp_path / "two", direct_running_mode="multi_processing", direct_num_workers=2)
    assert read_rows(tmp_path / "two") == read_rows(tmp_path / "one")
    assert len(list((tmp_path / f"mdmf-{os.getuid()}").glob("*.address"))) == 1
