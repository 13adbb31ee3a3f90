"""The detector that a pointer names: picked up while it runs, kept when the new one is broken."""

import logging

import pytest
from conftest import copy_detector
from emulators import Bucket, environment, fake_gcs_server

import model_assets
from mdmf_ops.beam.load import DetectorOptions, read_id
from mdmf_ops.beam.stream.current import CurrentDetector, is_pointer, named_id, read_pointer
from model_assets import AssetError


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def two(tmp_path):
    """A pointer to the first of two detectors, and their ids."""
    ids = [copy_detector(tmp_path / name, name) for name in ("one", "two")]
    (tmp_path / "current").write_text("one\n")
    return tmp_path / "current", *ids


def test_a_pointer_is_followed_when_it_is_due_and_not_before(two):
    pointer, first, second = two
    clock = Clock()
    current = CurrentDetector(DetectorOptions(str(pointer), device="cpu", check_s=10), clock)
    assert current.get().assets.detector_id == first
    pointer.write_text(str(pointer.parent / "two"))
    clock.now_s = 9.9
    assert current.get().assets.detector_id == first
    clock.now_s = 10
    assert current.get().assets.detector_id == second
    assert current.get() is current.get()


def test_a_broken_detector_is_rejected_until_it_is_whole(two, caplog):
    caplog.set_level(logging.ERROR, "mdmf_ops")  # whatever a command of an earlier test set for the root
    pointer, first, second = two
    clock = Clock()
    current = CurrentDetector(DetectorOptions(str(pointer), device="cpu", check_s=1), clock)
    kept = current.get()
    bank = pointer.parent / "two" / "bank.safetensors"
    whole = bank.read_bytes()
    manifest = pointer.parent / "two" / model_assets.MANIFEST
    listed = manifest.read_text()

    def check() -> None:
        clock.now_s += 1
        assert current.get() is kept

    pointer.write_text("two")
    bank.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    check()
    check()
    assert len([record for record in caplog.records if "does not load" in record.message]) == 1  # not at each check
    bank.unlink()
    check()
    manifest.write_text("{")
    check()
    for words in ("", "three", "one\nand two", "x" * 5000, "\0"):
        pointer.write_text(words)
        check()
    pointer.write_bytes(b"\xff\xfe")
    check()
    pointer.unlink()
    check()
    assert str(pointer.parent / "one") not in caplog.text  # it loads; and no pointer that cannot be read names it
    bank.write_bytes(whole)
    manifest.write_text(listed)
    pointer.write_text("two")
    clock.now_s += 1
    assert current.get().assets.detector_id == second != first
    assert first in caplog.text


def test_a_folder_is_no_pointer_and_a_first_detector_must_load(two):
    pointer, first, _second = two
    assert is_pointer(str(pointer)) and not is_pointer(str(pointer.parent / "one"))
    folder = CurrentDetector(DetectorOptions(str(pointer.parent / "one"), device="cpu", check_s=0))
    assert folder.get().assets.detector_id == first
    pointer.write_text("three")
    with pytest.raises(AssetError, match="three"):
        CurrentDetector(DetectorOptions(str(pointer), device="cpu"))


def test_a_pointer_names_a_folder_beside_itself_or_anywhere(tmp_path):
    pointer = tmp_path / "current"
    for words, folder in {
        "a/b": f"{tmp_path}/a/b",
        "  /abs/x \n\n": "/abs/x",
        "gs://bucket/detectors/1": "gs://bucket/detectors/1",
    }.items():
        pointer.write_text(words)
        assert read_pointer(str(pointer)) == folder


def test_workers_that_do_not_score_go_by_the_manifest_alone_and_keep_the_last_that_was_whole(two, monkeypatch):
    pointer, first, second = two
    clock = Clock()
    monkeypatch.setattr("mdmf_ops.beam.stream.current.time.monotonic", clock)
    # Never loaded: there is no such device here, and no bank.
    options = DetectorOptions(str(pointer), device="cuda", check_s=10)
    for name in ("one", "two"):
        (pointer.parent / name / "bank.safetensors").unlink()
    assert named_id(options) == first
    pointer.write_text("two\n")
    assert named_id(options) == first
    clock.now_s = 10
    assert named_id(options) == second
    pointer.write_text("nowhere\n")
    clock.now_s = 20
    assert named_id(options) == second
    with pytest.raises(AssetError):
        named_id(DetectorOptions(str(pointer.parent / "nowhere")))


def test_a_broken_pointer_is_read_as_seldom_as_a_whole_one(two, monkeypatch):
    pointer, first, _second = two
    clock, reads = Clock(), []
    monkeypatch.setattr("mdmf_ops.beam.stream.current.time.monotonic", clock)
    monkeypatch.setattr(
        "mdmf_ops.beam.stream.current.read_pointer", lambda path: reads.append(path) or read_pointer(path)
    )
    options = DetectorOptions(str(pointer), device="cuda", check_s=10)
    for now_s, words in ((0, "one"), (10, "nowhere"), (20, "")):
        clock.now_s = now_s
        pointer.write_text(words)
        assert {named_id(options) for _ in range(100)} == {first}
    assert len(reads) == 3


def test_a_pointer_and_its_detectors_may_lie_in_a_bucket(two, caplog):
    pointer, first, second = two
    with fake_gcs_server() as url, environment(url):
        bucket = Bucket("detectors")
        for path in pointer.parent.rglob("*"):
            if path.is_file():
                bucket.put(str(path.relative_to(pointer.parent)), path.read_bytes())
        assert is_pointer(bucket.uri("current")) and not is_pointer(bucket.uri("one"))
        folder = CurrentDetector(DetectorOptions(bucket.uri("two"), device="cpu"))
        assert folder.get().assets.detector_id == second
        assert read_id(bucket.uri("one")) == first
        current = CurrentDetector(DetectorOptions(bucket.uri("current"), device="cpu", check_s=0))
        assert current.get().assets.detector_id == first
        bank = bucket.get("two/bank.safetensors")
        for broken in (bank[:-1], bank + b"more", b""):
            bucket.put("two/bank.safetensors", broken)
            bucket.put("current", b"two")
            assert current.get().assets.detector_id == first
            assert f"{bucket.uri('two/bank.safetensors')}: " in caplog.messages[-1]
            logged = len(caplog.messages)
            current.get()
            assert len(caplog.messages) == logged
        bucket.put("two/manifest.json", b"{}")
        with pytest.raises(AssetError, match=f"^{bucket.uri('two/manifest.json')}: expected manifest format 1"):
            read_id(bucket.uri("two/"))
        bucket.put("two/manifest.json", (pointer.parent / "two/manifest.json").read_bytes())
        bucket.put("two/bank.safetensors", bank)
        assert current.get().assets.detector_id == second
        bucket.put("three/manifest.json", b'{"format": 1, "name": "x", "files": {"../../x": {"bytes": 1}}}')
        bucket.put("current", b"gs://detectors/three")
        bucket.delete("one/manifest.json")
        assert current.get().assets.detector_id == second
