"""Listing and reading: every file once, no name trusted, every failure an error with a code."""

import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from mdmf_ops.beam import ImageRef, MatchImages, ReadImages
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.sources import list_images
from mdmf_ops.detector import ErrorCode, Limits


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "a.png", "sub/c", "sub/.hidden.jpg", "sub/deep/photo[1].jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(root, source):
    return sorted(os.path.relpath(ref.uri, root) for ref in list_images(str(source)))


def test_what_is_no_place_that_is_read_is_no_missing_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    for uri in ("https://example.org/a.jpg", "s3://bucket/a.jpg", f"file://host{tmp_path}/a.jpg"):
        image = fetch_image(ImageRef(uri), Limits())
        assert (image.content, image.error.code) == (None, ErrorCode.BAD_URI), uri
    assert fetch_image(ImageRef(f"file://{tmp_path}/a.jpg"), Limits()).content == b"a"


def test_a_folder_is_every_file_under_it(tree):
    expected = ["a.png", "b.jpg", "notes.txt", "sub/.hidden.jpg", "sub/c", "sub/deep/photo[1].jpg"]
    assert sorted(names(tree, tree)) == expected


def test_a_glob_crosses_folders_only_with_two_stars(tree):
    assert names(tree, tree / "*.jpg") == ["b.jpg"]
    assert names(tree, tree / "**/*.jpg") == ["b.jpg", "sub/.hidden.jpg", "sub/deep/photo[1].jpg"]


def test_a_name_that_exists_is_no_glob(tree):
    assert names(tree, tree / "sub/deep/photo[1].jpg") == ["sub/deep/photo[1].jpg"]


def test_size_is_listed(tree):
    assert [ref.size_bytes for ref in list_images(str(tree / "b.jpg"))] == [len("b.jpg")]


@pytest.mark.parametrize("source", ["nowhere", "*.gif", "empty"])
def test_nothing_there_is_an_error(tree, source):
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing there"):
        list(list_images(str(tree / source)))


def test_relative_names_become_absolute(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [ref.uri for ref in list_images("b.jpg")] == [str(tree / "b.jpg")]


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1.jpg"))
    path.write_bytes(b"content")
    [ref] = list_images(str(tmp_path))
    assert ref.uri == f"file://{tmp_path}/caf%E9%201.jpg"
    assert fetch_image(ref, Limits()).content == b"content"


def test_a_dangling_link_is_listed_and_fails_when_read(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    [ref] = list_images(str(tmp_path))
    image = fetch_image(ref, Limits())
    assert image.content is None
    assert image.error.code is ErrorCode.NOT_FOUND
    assert "gone.jpg" in image.error.message or "link.jpg" in image.error.message


def test_links_that_lead_nowhere_are_rows_that_say_why(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "through.jpg").symlink_to(tmp_path / "a.jpg" / "x")
    (tmp_path / "long.jpg").symlink_to("n" * 300)
    errors = {Path(ref.uri).name: fetch_image(ref, Limits()).error for ref in list_images(str(tmp_path))}
    assert errors.pop("a.jpg") is None
    assert {name: error.code for name, error in errors.items()} == dict.fromkeys(
        ("circle.jpg", "through.jpg", "long.jpg"), ErrorCode.UNREADABLE
    )


def test_a_folder_in_place_of_a_file_fails_when_read(tmp_path):
    image = fetch_image(ImageRef(str(tmp_path)), Limits())
    assert image.error.code is ErrorCode.UNREADABLE


@pytest.mark.parametrize("listed", [None, 100])
def test_the_limit_on_bytes_holds_whatever_was_listed(tmp_path, listed):
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(1001))
    limits = Limits(max_bytes=1000)
    assert fetch_image(ImageRef(str(path), size_bytes=listed), limits).error.code is ErrorCode.TOO_MANY_BYTES
    path.write_bytes(bytes(1000))
    assert fetch_image(ImageRef(str(path), size_bytes=listed), limits).content == bytes(1000)


def test_a_file_written_to_since_it_was_listed_is_changed(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"listed")
    [ref] = list_images(str(path))
    assert fetch_image(ref, Limits()) == (ref, b"listed", None)
    os.utime(path, ns=(0, ref.modified_ns + 1))
    assert fetch_image(ref, Limits()).error.code is ErrorCode.CHANGED
    path.write_bytes(b"larger than listed")
    os.utime(path, ns=(0, ref.modified_ns))
    assert fetch_image(ref, Limits()).error.code is ErrorCode.CHANGED


def test_a_file_written_to_while_it_is_read_is_changed(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"listed")
    [ref] = list_images(str(path))
    fstat = os.fstat

    def write_after(descriptor):
        status = fstat(descriptor)
        os.utime(path, ns=(0, ref.modified_ns + 1))
        return status

    monkeypatch.setattr(os, "fstat", write_after)
    assert fetch_image(ref, Limits()).error.code is ErrorCode.CHANGED


def test_size_and_time_of_a_named_file_are_those_that_were_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    ref = fetch_image(ImageRef(str(path)), Limits()).ref
    assert (ref.size_bytes, ref.modified_ns) == (7, path.stat().st_mtime_ns)


def test_a_pipe_in_place_of_a_file_fails_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    [ref] = list_images(str(tmp_path))
    assert fetch_image(ref, Limits()).error.code is ErrorCode.UNREADABLE


def test_a_name_that_no_file_can_have_fails_as_one_image():
    assert fetch_image(ImageRef("/a\0b"), Limits()).error.code is ErrorCode.UNREADABLE


def test_a_large_file_is_refused_unread(tmp_path):
    missing = ImageRef(str(tmp_path / "never-opened.jpg"), size_bytes=1 << 40)
    assert fetch_image(missing, Limits()).error.code is ErrorCode.TOO_MANY_BYTES


@pytest.mark.parametrize("there", [0, 1, 699])
def test_an_image_that_a_shard_ends_before_is_truncated(tmp_path, there):
    path = tmp_path / "cut.tar"
    path.write_bytes(bytes(512 + there))
    ref = ImageRef(f"{path}#a.jpg", size_bytes=700, offset_bytes=512)
    assert fetch_image(ref, Limits()).error.code is ErrorCode.TRUNCATED
    path.write_bytes(bytes(512 + 700))
    assert fetch_image(ref, Limits()).content == bytes(700)


def test_a_compressed_name_is_not_unpacked(tmp_path):
    path = tmp_path / "a.jpg.gz"
    path.write_bytes(b"\x1f\x8bnot gzip")
    assert fetch_image(ImageRef(str(path)), Limits()).content == b"\x1f\x8bnot gzip"


def test_sources_that_overlap_give_each_image_once(tree, run_pipeline):
    sources = [str(tree), str(tree / "b.jpg"), str(tree / "**/*.jpg")]
    with run_pipeline() as p:
        uris = p | MatchImages(sources) | beam.Map(_uri)
        assert_that(uris, equal_to([ref.uri for ref in list_images(str(tree))]))


def _uri(ref):
    return ref.uri


def test_read_images_gives_the_bytes_of_every_file(tree, run_pipeline):
    expected = [(str(path), path.read_bytes()) for path in tree.rglob("*") if path.is_file()]
    with run_pipeline() as p:
        images = p | ReadImages([str(tree)])
        assert_that(images | "Pair" >> beam.Map(_pair), equal_to(expected))


def _pair(image):
    return image.ref.uri, image.content


def test_a_source_that_is_not_there_fails_the_run(tree, run_pipeline):
    with pytest.raises(Exception, match="nothing there"), run_pipeline() as p:
        p | MatchImages([str(tree), str(tree / "missing")])


def test_no_sources_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        MatchImages([])
