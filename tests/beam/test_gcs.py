"""Listing and reading a bucket: what was listed is what is read, or a failed row says why."""

import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import emulators
import pytest
from emulators import Bucket, CountingProxy
from google.cloud import storage

from mdmf_ops import cli
from mdmf_ops.beam import Filters, ImageRef, Run, gcs
from mdmf_ops.beam.commit import retract
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import Message
from mdmf_ops.beam.shards import list_members
from mdmf_ops.beam.sources import complete, list_images, list_part, split_source
from mdmf_ops.detector import ErrorCode, Limits


@pytest.fixture(scope="module", params=["gcp-storage-emulator", "fake-gcs-server"])
def proxy(request):
    start = {
        "gcp-storage-emulator": emulators.gcp_storage_emulator,
        "fake-gcs-server": emulators.fake_gcs_server,
    }[request.param]
    with start() as url, CountingProxy(url) as proxy, emulators.environment(proxy.url):
        yield proxy


@pytest.fixture
def bucket(proxy, request):
    """A bucket of this test alone."""
    proxy.before = lambda _kind, _name: None
    bucket = Bucket(f"bucket-{abs(hash(request.node.name)) % 10**8}")
    proxy.reset()
    return bucket


NAMES = ("a.jpg", "in/b.jpg", "in/deep/c.png", "in/deep/er/d.jpg", "in2/e.jpg", "in/odd #[1]? ü.jpg", "z.jpg")


def fill(bucket, names=NAMES):
    return {name: bucket.put(name, name.encode()) for name in names}


def names(bucket, source):
    return sorted(ref.uri.removeprefix(bucket.uri()) for ref in list_images(bucket.uri(source)))


def test_a_prefix_is_every_object_under_it_with_generation_size_and_time(bucket):
    generations = fill(bucket)
    refs = {ref.uri.removeprefix(bucket.uri()): ref for ref in list_images(bucket.uri("in"))}
    assert sorted(refs) == sorted(name for name in NAMES if name.startswith("in/"))
    for name, ref in refs.items():
        assert (ref.generation, ref.size_bytes) == (generations[name], len(name.encode()))
        assert ref.modified_ns > 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", set(NAMES)),
        ("in/", {"in/b.jpg", "in/deep/c.png", "in/deep/er/d.jpg", "in/odd #[1]? ü.jpg"}),
        ("a.jpg", {"a.jpg"}),
        ("in/odd #[1]? ü.jpg", {"in/odd #[1]? ü.jpg"}),
        ("in/*.jpg", {"in/b.jpg", "in/odd #[1]? ü.jpg"}),
        ("in/**.jpg", {"in/b.jpg", "in/deep/er/d.jpg", "in/odd #[1]? ü.jpg"}),
        ("in/**/*.jpg", {"in/b.jpg", "in/deep/er/d.jpg", "in/odd #[1]? ü.jpg"}),
        ("in?/[d-f].jpg", {"in2/e.jpg"}),
        ("**", set(NAMES)),
    ],
)
def test_sources_name_what_a_shell_would(bucket, source, expected):
    fill(bucket)
    assert names(bucket, source) == sorted(expected)


@pytest.mark.parametrize("source", ["nowhere", "nowhere/", "in/*.gif", "in/b"])
def test_nothing_there_is_an_error(bucket, source):
    fill(bucket)
    with pytest.raises(FileNotFoundError, match="nothing there"):
        list(list_images(bucket.uri(source)))


def test_parts_cover_a_source_once(bucket, monkeypatch):
    monkeypatch.setattr(gcs, "_PAGE", 5)
    expected = [f"t/{folder}/{i}.jpg" for folder in ("2024/01", "2024/02", "2025", "x") for i in range(3)]
    expected += ["t/0", "t/2024-x", "t/zz", "t/Ä.jpg", "t/~"]
    fill(bucket, expected)
    parts = split_source(bucket.uri("t"))
    assert len(parts) > 4
    listed = [ref.uri.removeprefix(bucket.uri()) for part in parts for ref in list_part(part)]
    assert sorted(listed) == sorted(expected)


def test_an_object_is_no_folder_for_the_slash_at_its_end(bucket):
    fill(bucket, ["in/a.jpg", "in/hidden.jpg/"])
    bucket.put("in/", b"")
    bucket.put("in/folder/", b"")  # as consoles draw them
    assert names(bucket, "in") == ["in/a.jpg", "in/hidden.jpg/"]
    for source in ("in/hidden.jpg/", "in/*.jpg/"):
        [hidden] = list_images(bucket.uri(source))
        assert fetch_image(hidden, Limits()).content == b"in/hidden.jpg/"


@pytest.mark.parametrize("page", [1000, 1])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("in", ["in", "in/a.jpg", "in/deep/b.jpg", "in/odd[1]", "in/odd[1]/c.jpg"]),
        ("in/deep", ["in/deep/b.jpg"]),
        ("in/a.jpg", ["in/a.jpg"]),
        ("in/odd[1]", ["in/odd[1]", "in/odd[1]/c.jpg"]),
    ],
)
def test_an_object_hides_no_folder_of_its_name(bucket, monkeypatch, page, source, expected):
    fill(bucket, ["in", "in/a.jpg", "in/deep/b.jpg", "in/odd[1]", "in/odd[1]/c.jpg", "in2"])
    monkeypatch.setattr(gcs, "_PAGE", page)
    assert names(bucket, source) == expected


@pytest.mark.parametrize("page", [1000, 1])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("t [2024]", ["t [2024]/a.jpg", "t [2024]/deep/b.jpg"]),
        ("t [2024]/", ["t [2024]/a.jpg", "t [2024]/deep/b.jpg"]),
        ("t [2024]/*.jpg", ["t 2/c.jpg"]),
        ("t*", ["t*/e.jpg", "t1.jpg"]),
    ],
)
def test_a_folder_is_found_by_its_name_as_it_stands(bucket, monkeypatch, page, source, expected):
    fill(bucket, ["t [2024]/a.jpg", "t [2024]/deep/b.jpg", "t 2/c.jpg", "t*/e.jpg", "t1.jpg"])
    monkeypatch.setattr(gcs, "_PAGE", page)
    assert names(bucket, source) == expected


@pytest.mark.parametrize("page", [1000, 1])
def test_a_folder_whose_name_is_no_glob_is_found(bucket, monkeypatch, page):
    fill(bucket, ["trip [2024-01]/a.jpg", "trip [2023-12]/b.jpg", "trip 2/c.jpg", "trip.jpg"])
    monkeypatch.setattr(gcs, "_PAGE", page)
    for source in ("trip [2024-01]", "trip [2024-01]/"):
        assert names(bucket, source) == ["trip [2024-01]/a.jpg"]
    with pytest.raises(FileNotFoundError, match="nothing there"):
        names(bucket, "trip [2024-01]/*.png")


@pytest.mark.parametrize(
    ("listed", "start"),
    [
        ([f"f/IMG_2024-{i:03d}.jpg" for i in range(0, 1000, 50)], "f/IMG_2024-"),
        (["f/a.jpg", "f/ab.jpg", "f/b.jpg"], "f/"),
        (["f/" + "n" * 100 + tail for tail in "ab"], "f/" + "n" * 100),
        (["f/Ä1", "f/Ä2"], "f/Ä"),
        (["f/only.jpg"], "f/only.jpg"),
        ([], "f/"),
    ],
)
def test_names_that_begin_alike_are_cut_where_they_differ(bucket, proxy, monkeypatch, listed, start):
    fill(bucket, [*listed, "e", "g"])
    bucket.put("f/", b"")  # as consoles draw folders
    proxy.reset()
    assert gcs._shared_start(bucket.name, "f/") == start
    assert proxy.requests["list"] <= 9
    if len(listed) > 10:
        monkeypatch.setattr(gcs, "_PAGE", 5)
        parts = [[ref.uri for ref in list_part(part)] for part in split_source(bucket.uri("f"))]
        assert sorted(uri for part in parts for uri in part) == sorted(map(bucket.uri, listed))
        assert sum(map(bool, parts)) == 10


def test_a_connection_is_kept_for_each_read(bucket, caplog):
    fill(bucket, [f"many/{i}.jpg" for i in range(8)])
    refs = list(list_images(bucket.uri("many")))
    together = threading.Barrier(32)

    def read(i):
        together.wait()
        return fetch_image(refs[i % 8], Limits()).error

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(read, range(32 * 4))) == {None}
    assert "discarding connection" not in caplog.text


def test_listing_asks_nothing_of_a_single_object(bucket, proxy):
    fill(bucket, [f"many/{i:04d}.jpg" for i in range(60)])
    proxy.reset()
    assert len(names(bucket, "many/")) == 60
    assert proxy.requests == {"list": 2}


def test_a_listed_object_is_one_request_and_its_own_bytes(bucket, proxy):
    fill(bucket)
    refs = list(list_images(bucket.uri("in/")))
    proxy.reset()
    for ref in refs:
        image = fetch_image(ref, Limits())
        assert image.content == ref.uri.removeprefix(bucket.uri()).encode()
        assert image.ref == ref
    assert proxy.requests == {"media": len(refs)}


def test_an_object_overwritten_since_it_was_listed_is_changed_never_mispaired(bucket):
    fill(bucket, ["a.jpg"])
    [ref] = list_images(bucket.uri("a.jpg"))
    bucket.put("a.jpg", b"A.JPG")  # of the same size
    image = fetch_image(ref, Limits())
    assert (image.content, image.error.code) == (None, ErrorCode.CHANGED)
    assert image.ref.generation == ref.generation


def test_an_object_overwritten_while_its_read_is_on_the_way_is_never_mispaired(bucket, proxy):
    fill(bucket, ["a.jpg"])
    [ref] = list_images(bucket.uri("a.jpg"))

    def overwrite(kind, _name):
        if kind == "media":
            proxy.before = lambda _kind, _name: None
            bucket.put("a.jpg", b"other bytes")

    proxy.before = overwrite
    assert fetch_image(ref, Limits()).error.code is ErrorCode.CHANGED


def test_an_object_deleted_since_it_was_listed_is_not_found(bucket):
    fill(bucket, ["a.jpg"])
    [ref] = list_images(bucket.uri("a.jpg"))
    bucket.delete("a.jpg")
    assert fetch_image(ref, Limits()).error.code is ErrorCode.NOT_FOUND


def test_transient_errors_are_retried(bucket, proxy):
    fill(bucket, ["a.jpg"])
    [ref] = list_images(bucket.uri("a.jpg"))
    answers = iter([503, 429])
    proxy.before = lambda kind, _name: next(answers, None) if kind == "media" else None
    assert fetch_image(ref, Limits()).content == b"a.jpg"
    assert proxy.media["a.jpg"] == 3


@pytest.mark.parametrize(("status", "code"), [(503, ErrorCode.UNAVAILABLE), (403, ErrorCode.FORBIDDEN)])
def test_errors_that_stay_are_a_code(bucket, proxy, monkeypatch, status, code):
    fill(bucket, ["a.jpg"])
    [ref] = list_images(bucket.uri("a.jpg"))
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.5))
    proxy.before = lambda kind, _name: status if kind == "media" else None
    image = fetch_image(ref, Limits())
    assert (image.content, image.error.code) == (None, code)


def test_too_large_an_object_is_refused_unread(bucket, proxy):
    bucket.put("large.jpg", bytes(1001))
    [ref] = list_images(bucket.uri("large.jpg"))
    proxy.reset()
    assert fetch_image(ref, Limits(max_bytes=1000)).error.code is ErrorCode.TOO_MANY_BYTES
    assert proxy.requests["media"] == 0


@pytest.mark.parametrize(("size_bytes", "code"), [(0, ErrorCode.EMPTY), (1000, None), (1001, ErrorCode.TOO_MANY_BYTES)])
def test_the_limit_holds_for_an_object_that_was_never_listed(bucket, size_bytes, code):
    bucket.put("named.jpg", bytes(size_bytes))
    image = fetch_image(ImageRef(bucket.uri("named.jpg")), Limits(max_bytes=1000))
    assert (image.error and image.error.code) == code
    if code is None:
        assert len(image.content) == size_bytes


def named_by_a_stranger(uri, **said):
    return ImageRef(uri, message=Message(b"", {}, "1", 0), **said)


@pytest.mark.parametrize("said", [{}, {"size_bytes": 10}, {"size_bytes": 10, "crc32c": "AAAAAA=="}])
def test_the_limit_holds_whatever_size_a_message_says(bucket, monkeypatch, said):
    generation = bucket.put("huge.jpg", bytes(1 << 20))
    download, sizes_bytes = storage.Blob.download_as_bytes, []

    def measured(blob, **how):
        content = download(blob, **how)
        sizes_bytes.append(len(content))
        return content

    monkeypatch.setattr(storage.Blob, "download_as_bytes", measured)
    ref = named_by_a_stranger(bucket.uri("huge.jpg"), generation=generation, **said)
    assert fetch_image(ref, Limits(max_bytes=1000)).error.code is ErrorCode.TOO_MANY_BYTES
    assert sizes_bytes == [1001]


def test_the_checksum_of_a_message_holds_for_the_whole_object(bucket):
    generation = bucket.put("a.jpg", b"bytes of an image")
    [listed] = list_images(bucket.uri("a.jpg"))
    said = {"generation": generation, "size_bytes": 17}
    right = fetch_image(named_by_a_stranger(listed.uri, crc32c=listed.crc32c, **said), Limits())
    assert (right.content, right.error) == (b"bytes of an image", None)
    at_the_limit = fetch_image(named_by_a_stranger(listed.uri, crc32c="AAAAAA==", **said), Limits(max_bytes=17))
    assert (at_the_limit.content, at_the_limit.error.code) == (None, ErrorCode.CHANGED)


def test_a_named_object_that_is_not_there_is_a_failed_image(bucket):
    ref = complete(ImageRef(bucket.uri("gone.jpg")))
    assert fetch_image(ref, Limits()).error.code is ErrorCode.NOT_FOUND


def tar(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(("status", "code"), [(503, ErrorCode.UNAVAILABLE), (403, ErrorCode.FORBIDDEN)])
def test_a_shard_that_cannot_be_read_is_not_called_damaged(bucket, proxy, monkeypatch, status, code):
    bucket.put("s.tar", tar("a.jpg", b"member"))
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.5))
    proxy.before = lambda kind, _name: status if kind != "list" else None
    [listed] = list_images(bucket.uri(""))
    for ref in (listed, *(complete(ImageRef(bucket.uri(name))) for name in ("s.tar", "s.tar#a.jpg"))):
        assert ref.error.code is code


@pytest.mark.parametrize(("then", "code"), [("put", ErrorCode.CHANGED), ("delete", ErrorCode.NOT_FOUND)])
def test_a_shard_that_is_another_one_before_its_images_are_listed_is_changed(bucket, then, code):
    listed = ImageRef(bucket.uri("s.tar"), bucket.put("s.tar", tar("a.jpg", b"member")))
    bucket.put("s.tar", tar("b.jpg", b"other")) if then == "put" else bucket.delete("s.tar")
    [ref] = list_members(listed)
    assert (ref.uri, ref.generation, ref.error.code) == (listed.uri, listed.generation, code)


def test_a_shard_is_read_to_its_end_in_the_request_of_its_headers(bucket, proxy):
    bucket.put("s.tar", tar("a.jpg", b"member"))
    bucket.put("two.tar", tar("a.jpg", b"member") + tar("b.jpg", b"hidden"))

    def once(name):
        return proxy.media in ({name: 1}, {})  # fake-gcs-server gives the address of the bytes without the proxy

    for name, damaged in (("s.tar", []), ("two.tar", [("two.tar", ErrorCode.CORRUPT)])):
        for listed in (list_images(bucket.uri(name)), list_members(complete(ImageRef(bucket.uri(name))))):
            proxy.reset()
            found = [(ref.uri.removeprefix(bucket.uri()), ref.error and ref.error.code) for ref in listed]
            assert found == [(f"{name}#a.jpg", None), *damaged]
            assert once(name)
        proxy.reset()
        assert complete(ImageRef(bucket.uri(f"{name}#a.jpg"))).error is None
        assert once(name)


def test_an_output_within_a_prefix_is_not_scanned(bucket):
    stem, day = "stream-20260131T221500Z", "scan_date=2026-01-31"
    own = [
        f"_runs/{stem}-s00-ontime0.json",
        f"{day}/{stem}-s00-ontime0-00000-of-00001.parquet",
        f"_windows/{stem}.json",
    ]
    own += [f"_drift/{day}/{stem}-ontime0.parquet", "_tmp/night-1/claim", f"_tmp/night-1/mdmf-{'0af' * 8}.tmp"]
    users = ["_runs/cat.jpg", "_tmp/night-1/cat.jpg", f"{day}/cat.jpg", f"{day}/own.parquet", "a.jpg"]
    fill(bucket, [f"in/scores/{name}" for name in [*own, *users]])
    for source, output in (("in", "in/scores"), ("in/**", "in/scores"), ("in/scores/", "in/scores")):
        filters = Filters(output=bucket.uri(output))
        found = [ref.uri for ref in list_images(bucket.uri(source)) if filters.admit(ref)]
        assert sorted(found) == sorted(bucket.uri(f"in/scores/{name}") for name in users)


@pytest.mark.parametrize(("status", "code"), [(503, ErrorCode.UNAVAILABLE), (403, ErrorCode.FORBIDDEN)])
def test_a_named_object_that_may_not_be_asked_about_is_a_row_of_its_own(bucket, proxy, monkeypatch, status, code):
    fill(bucket, ["a.jpg"])
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.5))
    proxy.before = lambda _kind, _name: status
    image = fetch_image(complete(ImageRef(bucket.uri("a.jpg"))), Limits())
    assert (image.ref.uri, image.error.code) == (bucket.uri("a.jpg"), code)


@pytest.mark.parametrize("mark", [".tar#", ".TAR#"])
def test_an_object_that_could_pass_for_an_image_in_a_shard_is_a_row_of_its_own(bucket, mark):
    shard = f"k{mark[:-1]}"
    bucket.put(shard, tar("a.jpg", b"member"))
    bucket.put(f"k{mark}a.jpg", b"object")
    bucket.put(f"k{mark}s.tar", tar("a.jpg", b"deep"))
    images = {image.ref.uri: image for image in (fetch_image(ref, Limits()) for ref in list_images(bucket.uri("")))}
    assert len(images) == 3
    assert images.pop(bucket.uri(f"{shard}#a.jpg")).content == b"member"
    assert {image.error.code for image in images.values()} == {ErrorCode.BAD_URI}
    assert fetch_image(complete(ImageRef(bucket.uri(f"{shard}#a.jpg"))), Limits()).content == b"member"


def test_a_file_of_several_pieces_is_uploaded_whole(bucket, monkeypatch, tmp_path):
    content = bytes(range(256)) * (9 << 12) + b"end"  # over 8 MiB, from which on the client uploads in pieces
    monkeypatch.setattr(gcs, "_CHUNK_BYTES", 4 << 20)
    (tmp_path / "file").write_bytes(content)
    gcs.upload(tmp_path / "file", bucket.uri("in/pieces"))
    assert bucket.get("in/pieces") == content


def test_a_bucket_that_is_not_there_fails_the_listing(proxy):
    with pytest.raises(FileNotFoundError, match="gs://no-such-bucket-here/"):
        list(list_images("gs://no-such-bucket-here/"))
    with pytest.raises(FileNotFoundError, match="gs://no-such-bucket-here/"):
        retract(Run.start("gs://no-such-bucket-here/out"))


def test_a_store_that_does_not_answer_is_a_line_and_no_traceback(bucket, proxy, monkeypatch, capsys):
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.5))
    proxy.before = lambda _kind, _name: 503
    for words in (["latest"], ["runs", "list"], ["report"]):
        assert cli.main([*words, bucket.uri("scores")]) == cli.EXIT_FAILED
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mdmf {words[0]}: ")
        assert "503" in line
