"""What names many images: folders in parts, lists, tar shards, filters. Each image once, each broken thing a row."""

import csv
import datetime
import glob
import io
import os
import re
import resource
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.testing.util import assert_that, equal_to
from conftest import files_in, make_row
from hypothesis import assume, given
from hypothesis import strategies as st

from mdmf_ops.beam import Filters, ImageRef, MatchImages, Run, gcs, shards, sources
from mdmf_ops.beam.commit import CommitOptions, commit, retract, write_shard
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.globs import compile_glob
from mdmf_ops.beam.lists import read_list
from mdmf_ops.beam.shards import find_member
from mdmf_ops.beam.sources import complete, list_images, list_part, split_source
from mdmf_ops.beam.storage import local_ref
from mdmf_ops.beam.stream.windows import DRIFT_FOLDER, WINDOW_FOLDER
from mdmf_ops.detector import ErrorCode, Limits


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MEMBERS = [("a.jpg", b"A" * 700), ("sub/b.png", b"B"), ("a.json", b"{}"), ("n" * 300 + ".jpg", b"long"), ("empty", b"")]


def test_parts_of_a_folder_cover_it_once(tmp_path):
    expected = []
    for name in ("a.jpg", "x/b.jpg", "x/deep/er/c.jpg", "y/d", "y/.e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        expected.append(str(path))
    parts = list(split_source(str(tmp_path)))
    assert len(parts) == 3
    assert sorted(ref.uri for part in parts for ref in list_part(part)) == sorted(expected)


@pytest.mark.parametrize("pattern", ["", "/*/*", "/2*/**"])
def test_a_year_of_daily_folders_is_a_part_for_each_day(tmp_path, pattern):
    days = [tmp_path / f"2026-{day:03d}" for day in range(365)]
    for day in days:
        day.mkdir()
        (day / "a.jpg").touch()
    *parts, rest = split_source(f"{tmp_path}{pattern}")
    assert sorted([ref.uri for ref in list_part(part)] for part in parts) == [[f"{day}/a.jpg"] for day in days]
    assert list(list_part(rest)) == []


# As Python's own: components of letters, stars and question marks, with `**` only where it is a whole component.
COMPONENT = st.text("ab*?", min_size=1, max_size=3).map(lambda text: re.sub(r"\*+", "*", text)) | st.just("**")


@given(st.lists(COMPONENT, min_size=1, max_size=3))
def test_a_glob_matches_what_pythons_own_does(tmp_path_factory, components):
    assume(glob.has_magic("/".join(components)))
    root = tmp_path_factory.getbasetemp() / "glob-tree"
    if not root.exists():
        for name in ("a", "b/a", "b/ab/a", "ab/b", "aab/ba/a/b", "b/bb/aa/a"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    if components[-1] == "**":
        components = [*components, "*"]  # Python's `**` at the end is folders alone
    pattern = "/".join([str(root), *components])
    expected = {path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}  # noqa: PTH113
    files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]  # noqa: PTH118
    assert {path for path in files if compile_glob(pattern).fullmatch(path)} == expected
    try:
        assert {ref.uri for ref in list_images(pattern)} == expected
    except FileNotFoundError:
        assert not expected


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a/[bc].jpg", "/a/b.jpg", True),
        ("/a/[!bc].jpg", "/a/b.jpg", False),
        ("/a/[!bc]x", "/a//x", False),
        ("/a/[b", "/a/[b", True),
        ("/a/b.jpg", "/a/bxjpg", False),
        ("/a/*", "/a/line\nbreak", True),
        ("/a/[\\d]", "/a/7", False),
        ("/a/[]*.jpg", "/a/[]b.jpg", True),
        ("/a/[]*.jpg", "/a/].jpg", False),
        ("/a/[!]", "/a/[!]", True),
        ("/a/[!]/b[c]", "/a/x", False),
        ("/a/[!]/b[c]", "/a/[!]/bc", True),
        ("/a/[!]]", "/a/b", True),
        ("/a/[]]", "/a/]", True),
    ],
)
def test_globs_of_sets_and_odd_names(pattern, path, matches):
    assert bool(compile_glob(pattern).fullmatch(path)) is matches


@pytest.mark.parametrize("pattern", ["/a/[z-a]*.jpg", "/a/**/[9-0]"])
def test_a_set_that_runs_backwards_is_said_in_a_line(tmp_path, pattern):
    with pytest.raises(ValueError, match="no glob: bad character range"):
        compile_glob(pattern)
    with pytest.raises(ValueError, match="no glob"):
        list(list_images(f"{tmp_path}/{pattern[3:]}"))


DISK = ("a.jpg", "lost+found/x.jpg", "2024/01/a.jpg", "2024/02/deep/a.jpg", "2025/01/a.jpg", "other/01/a.jpg")


@pytest.mark.parametrize(
    ("pattern", "walked"),
    [
        ("*.jpg", [""]),
        ("20*/01/*.jpg", ["", "2024", "2024/01", "2025", "2025/01"]),
        ("20*/**/*.jpg", ["", "2024", "2024/01", "2024/02", "2024/02/deep", "2025", "2025/01"]),
        ("2024/0*/a.jpg", ["2024", "2024/01", "2024/02"]),
        ("[!l]*/0[12]/a**", ["", "2024", "2024/01", "2024/02", "2024/02/deep", "2025", "2025/01", "other", "other/01"]),
    ],
)
def test_a_glob_walks_no_folder_that_it_cannot_match(tmp_path, monkeypatch, pattern, walked):
    for name in DISK:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scandir, scanned = os.scandir, set()

    def noted(folder):
        scanned.add(str(folder))
        return scandir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", noted)
        found = {ref.uri for ref in list_images(f"{tmp_path}/{pattern}")}
    assert scanned == {str(tmp_path / name) for name in walked}
    files = [str(tmp_path / name) for name in DISK]
    assert found == {name for name in files if compile_glob(f"{tmp_path}/{pattern}").fullmatch(name)}


@pytest.fixture
def vanishing(tmp_path, monkeypatch):
    """A tree of which folders go as they are about to be listed: those that the test adds to `vanishing.names`."""
    for name in ("photos/a.jpg", "photos/x/b.jpg", "photos/x/deep/c.jpg", "photos/y/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scandir, names = os.scandir, []

    def deleted_first(folder):
        if isinstance(folder, str) and Path(folder).name in names:  # deleting scans too, by numbers
            shutil.rmtree(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deleted_first)
    return SimpleNamespace(root=tmp_path / "photos", names=names)


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.jpg"])
@pytest.mark.parametrize(
    ("gone", "left"), [("y", ["a", "x/b", "x/deep/c"]), ("deep", ["a", "x/b", "y/d"]), ("x", ["a", "y/d"])]
)
def test_a_folder_that_is_deleted_while_it_is_listed_is_no_image_and_no_failure(vanishing, pattern, gone, left):
    parts = list(split_source(f"{vanishing.root}{pattern}"))
    vanishing.names.append(gone)
    found = [ref.uri for part in parts for ref in list_part(part)]
    assert sorted(found) == [f"{vanishing.root}/{name}.jpg" for name in left]


@pytest.mark.parametrize("source", ["photos", "photos/**", "photos/*.jpg", "photos/a.jpg"])
def test_a_source_that_is_deleted_while_it_is_listed_fails_every_part(vanishing, source):
    parts = list(split_source(str(vanishing.root.parent / source)))
    shutil.rmtree(vanishing.root)
    for part in parts:
        with pytest.raises(FileNotFoundError):
            list(list_part(part))


@pytest.mark.parametrize("closed", ["photos", "x", "deep"])
def test_a_folder_that_may_not_be_listed_fails_the_run(vanishing, monkeypatch, closed):
    scandir = os.scandir

    def refused(folder):
        if Path(folder).name == closed:
            raise PermissionError(f"{folder}: closed")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="closed"):
        list(list_images(str(vanishing.root)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_closed_folder_beside_the_images_of_a_glob_costs_nothing(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "lost+found").mkdir(0)
    assert [ref.uri for ref in list_images(f"{tmp_path}/*.jpg")] == [f"{tmp_path}/a.jpg"]
    with pytest.raises(PermissionError):
        list(list_images(str(tmp_path)))


def test_an_output_within_a_source_is_not_scanned(tmp_path, run_pipeline):
    stream = Run.start(str(tmp_path / "scores"), "stream")
    for run in (Run.start(stream.output, "night-1"), Run.start(stream.output, "killed")):
        retract(run)
        file = write_shard(run, 0, 1, [make_row("/a")])
        if run.run_id == "night-1":
            commit(run, 1, [file], CommitOptions())
        else:
            Path(run.temporary_folder, f"mdmf-{'0af' * 8}.tmp").touch()
    own = [f"{WINDOW_FOLDER}/stream-1.json", f"{DRIFT_FOLDER}/scan_date=2026-01-31/stream-1-ontime0.parquet"]
    # Of the same folders and names, and no run's.
    users = ["_runs/cat.jpg", "_runs/deep/a.json", "_tmp/cat.jpg", "_tmp/r1/cat.jpg", "_windows/cat.png", "claim"]
    users += ["scan_date=2026-01-31/cat.jpg", "scan_date=2026-01-31/a.parquet", "_drift/a.parquet", "my_runs/a.json"]
    for name in [*own, *users]:
        (tmp_path / "scores" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scores" / name).touch()
    assert len(files_in(tmp_path / "scores")) == len(users) + 7
    expected = [f"{tmp_path}/scores/{name}" for name in users]
    filters = Filters(output=stream.output)
    for source in (str(tmp_path), f"{tmp_path}/**", stream.output):
        assert sorted(ref.uri for ref in list_images(source) if filters.admit(ref)) == sorted(expected)
    with run_pipeline() as p:
        assert_that(p | MatchImages([str(tmp_path)], filters=filters) | beam.Map(_uri), equal_to(expected))


@pytest.mark.parametrize(
    ("source", "output"), [("link", "in/scores"), ("in", "link/scores"), ("in/scores", "link/scores")]
)
def test_an_output_that_a_link_leads_to_is_not_scanned(tmp_path, source, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    run = Run.start(str(tmp_path / "in/scores"), "night-1")
    retract(run)
    commit(run, 1, [write_shard(run, 0, 1, [make_row("/a")])], CommitOptions())
    users = ["cat.jpg", "elsewhere/_runs/a.json", "elsewhere/_tmp/r1/claim", "scores/_runs/cat.jpg"]
    for name in users:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    # A stranger's link to what a run wrote is none of the run's.
    (tmp_path / "in/elsewhere/_runs/night-1.json").symlink_to(run.manifest_path)
    users.append("elsewhere/_runs/night-1.json")
    filters = Filters(output=str(tmp_path / output))
    found = [ref.uri for ref in list_images(str(tmp_path / source)) if filters.admit(ref)]
    below = [f"{'link' if source == 'link' else 'in'}/{name}" for name in users]
    assert sorted(found) == sorted(f"{tmp_path}/{name}" for name in below if name.startswith(f"{source}/"))


@pytest.mark.parametrize("name", ["_runs/a.json", "scan_date=2026-01-31/a-00000-of-00001.parquet", "_tmp/r/claim"])
@pytest.mark.parametrize("output", [None, "/photos", "/photos/score", "gs://photos"])
def test_a_name_that_a_run_could_give_hides_no_image_that_lies_elsewhere(name, output):
    assert Filters(output=output).admit(ImageRef(f"/photos/scores/{name}"))
    assert not Filters(output="/photos/scores").admit(ImageRef(f"/photos/scores/{name}"))


@pytest.mark.parametrize("name", ["x/../../scores/_runs/night-1.json", "x/../../scores/_tmp/r1/claim"])
def test_no_name_in_a_shard_passes_for_what_a_run_wrote(tmp_path, name, run_pipeline):
    (tmp_path / "in").mkdir()
    shard = write_tar(tmp_path / "in" / "s.tar", [(name, b"image")])
    # As paths go, the member's would be one that a run writes.
    assert os.path.normpath(f"{shard}#{name}").startswith(f"{tmp_path}/scores/_")
    filters = Filters(output=str(tmp_path / "scores"))
    with run_pipeline() as p:
        found = p | MatchImages([str(tmp_path)], filters=filters) | beam.Map(_uri)
        assert_that(found, equal_to([f"{shard}#{name}"]))


def test_a_million_objects_are_listed_in_flat_memory(monkeypatch):
    # Not a real bucket: a client that makes up a million blobs page by page, as the real one does.
    class Blob:
        bucket, generation, size, crc32c = "b", 1, 1000, "AAAAAA=="
        time_created = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

        def __init__(self, i):
            self.name = f"in/{i:09d}.jpg"

    class Client:
        def list_blobs(self, *_args, **_kwargs):
            for start in range(0, 1_000_000, 1000):
                yield from [Blob(start + i) for i in range(1000)]

    monkeypatch.setattr(gcs, "client", Client)
    part = sources.Part("gs://b/in/", "gs://b/in/")
    resident_bytes = []
    for count, _ref in enumerate(list_part(part), 1):
        if count % 100_000 == 0:
            resident_bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert (count, _ref.uri) == (1_000_000, "gs://b/in/000999999.jpg")
    assert max(resident_bytes) - resident_bytes[0] < 10e6  # less than 12 bytes for each object


def test_every_file_of_a_tar_shard_is_an_image(tmp_path):
    shard = write_tar(tmp_path / "s.tar", MEMBERS)
    refs = list(list_images(str(tmp_path)))
    assert [ref.uri for ref in refs] == [f"{shard}#{name}" for name, _ in MEMBERS]
    for ref, (_, content) in zip(refs, MEMBERS, strict=True):
        image = fetch_image(ref, Limits())
        if content:
            assert image.content == content
        else:
            assert image.error.code is ErrorCode.EMPTY


def test_a_shard_that_changed_since_it_was_listed_gives_no_bytes(tmp_path):
    shard = write_tar(tmp_path / "s.tar", MEMBERS)
    refs = list(list_images(str(shard)))
    write_tar(shard, MEMBERS[::-1])
    os.utime(shard, ns=(0, refs[0].modified_ns + 1))
    assert {fetch_image(ref, Limits()).error.code for ref in refs[:4]} == {ErrorCode.CHANGED}


def broken_shards():
    def tar(members=MEMBERS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return bytearray(buffer.getvalue())

    damaged = tar()
    damaged[1536 + 10] ^= 255  # in the header of the second member
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 32
    return {
        "empty.tar": (b"", 0),
        "text.tar": (b"no tar at all" * 100, 0),
        "damaged.tar": (damaged, 1),
        "cut.tar": (tar()[:1000], 1),
        "huge-header.tar": (huge.tobuf(tarfile.USTAR_FORMAT) + bytes(1024), 0),
    }


@pytest.mark.parametrize("name", broken_shards())
def test_a_broken_shard_is_a_failed_row_beside_what_could_be_listed(tmp_path, name):
    content, listed = broken_shards()[name]
    path = tmp_path / name
    path.write_bytes(content)
    refs = list(list_images(str(path)))
    assert len(refs) == listed + 1
    image = fetch_image(refs[-1], Limits())
    assert (image.ref.uri, image.error.code) == (str(path), ErrorCode.CORRUPT)


def test_the_last_of_two_members_of_one_name_is_the_image(tmp_path, run_pipeline):
    shard = write_tar(tmp_path / "s.tar", [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"newer")])
    with run_pipeline() as p:
        refs = p | MatchImages([str(shard)]) | beam.Map(_uri_and_size)
        assert_that(refs, equal_to([(f"{shard}#a.jpg", 5), (f"{shard}#b.jpg", 1)]))


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (Filters(max_bytes=4), {"b.jpg": 1}),
        (Filters(min_bytes=4), {"a.jpg": 5}),
        (Filters(min_bytes=6), {}),
        (Filters(max_bytes=4, suffixes=(".png",)), {}),
    ],
)
def test_the_first_of_two_members_is_no_image_where_a_filter_leaves_out_the_last(tmp_path, run_pipeline, filters, left):
    shard = write_tar(tmp_path / "s.tar", [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"newer")])
    with run_pipeline() as p:
        refs = p | MatchImages([str(shard)], filters=filters) | beam.Map(_uri_and_size)
        assert_that(refs, equal_to([(f"{shard}#{name}", size) for name, size in left.items()]))


def upstream(pipeline, label):
    """Transforms that what a step takes comes from, in a pipeline."""
    found = {}

    class Visitor(PipelineVisitor):
        def visit_transform(self, node):
            found[node.full_label] = node

        enter_composite_transform = visit_transform

    pipeline.visit(Visitor())
    [step] = [node for name, node in found.items() if name.endswith(f"/{label}")]
    nodes = [step]
    for node in nodes:
        nodes += [collection.producer for collection in node.inputs if collection.producer]
    return [node.full_label for node in nodes[1:]]


@pytest.mark.parametrize(("step", "spread"), [("ReadLists", "Lists/"), ("Named", "SpreadNamed/")])
def test_lists_and_shards_are_each_read_by_whichever_worker_is_free(step, spread):
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    _ = pipeline | MatchImages(["gs://b/shards"], lists=["gs://b/0.parquet", "gs://b/1.parquet"])
    # Beam runs what is not parted by a grouping on one worker.
    before = upstream(pipeline, step)
    assert any(f"/{spread}" in label and label.endswith("/GroupByKey") for label in before)


def test_a_shard_is_not_opened_by_who_lists_its_folder(tmp_path, monkeypatch):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, MEMBERS)
    monkeypatch.setattr(shards, "open_file", None)
    step = sources._ListDoFn(Filters(), None)
    listed = [output for part in split_source(str(tmp_path)) for output in step.process(part)]
    assert sorted((output.tag, output.value[1].uri) for output in listed) == [
        ("shards", f"{tmp_path}/{name}") for name in ("a.tar", "b.tar")
    ]


def test_an_empty_shard_alone_is_a_source_with_nothing_in_it(tmp_path, run_pipeline):
    write_tar(tmp_path / "s.tar", [])
    with pytest.raises(Exception, match="nothing there"), run_pipeline() as p:
        _ = p | MatchImages([str(tmp_path)])


@pytest.mark.parametrize("named", [{"sources": "/photos"}, {"sources": [], "lists": "wanted.txt"}])
def test_one_name_in_place_of_many_is_not_taken_apart(named):
    with pytest.raises(ValueError, match="lists of names"):
        MatchImages(**named)


def _uri_and_size(ref):
    return ref.uri, ref.size_bytes


URIS = ["gs://bucket/a,b.jpg", "/local/ü.jpg", "relative.jpg", "file:///x/caf%E9.jpg", "gs://bucket/s.tar#m.jpg"]


def write_list(path, uris, column="uri"):
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["n", column], *enumerate(uris)])
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"n": list(range(len(uris))), column: uris}), path)
    else:
        path.write_text("\r\n".join(["", *uris, "  "]))
    return path


@pytest.mark.parametrize("name", ["list.txt", "list", "list.csv", "list.parquet"])
def test_lists_name_images_in_every_form(tmp_path, name):
    path = write_list(tmp_path / name, URIS)
    found = [ref.uri for ref in read_list(str(path))]
    assert found == [URIS[0], URIS[1], str(tmp_path / "relative.jpg"), *URIS[3:]]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_list_without_the_column_names_those_it_has(tmp_path, name):
    path = write_list(tmp_path / name, URIS, column="image")
    with pytest.raises(ValueError, match="no column 'uri', but n, image"):
        list(read_list(str(path)))
    assert len(list(read_list(str(path), "image"))) == len(URIS)


NO_NAMES = ["s3://b/a.jpg", "https://x/a.jpg", "gs://", "gs://bucket", "gs:///a", "/a\0b", "FILE:///a.jpg"]
NO_OBJECTS = ["gs://bucket/.", "gs://bucket/..", "gs://../a.jpg", "gs://a%2fb/c.jpg", "gs://bucket?x=/a.jpg"]


@pytest.mark.parametrize("uri", [*NO_NAMES, *NO_OBJECTS, "gs://bucket/" + "a" * 1025])
def test_what_no_image_can_have_for_a_name_is_a_failed_row(tmp_path, uri):
    path = tmp_path / "list.txt"
    path.write_text(uri)
    [ref] = read_list(str(path))
    assert fetch_image(ref, Limits()).error.code is ErrorCode.BAD_URI


def test_a_signed_url_in_a_list_is_a_failed_row_without_its_secrets(tmp_path):
    signed = [f"https://me:hunter2@x.org/a.jpg?X-Goog-Signature=hunter2&n={n}" for n in range(2)]
    (tmp_path / "list.txt").write_text("\n".join(signed))
    refs = list(read_list(str(tmp_path / "list.txt")))
    assert len({ref.uri for ref in refs}) == 2  # two rows
    for ref in refs:
        assert ref.uri.startswith("https://...@x.org/a.jpg?...#") and "hunter2" not in f"{ref.uri} {ref.error}"


def test_a_listed_null_character_is_a_failed_row_however_it_is_written(tmp_path):
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/a%00b.jpg\n{tmp_path}/a\0b.jpg\n")
    for ref in read_list(str(tmp_path / "list.txt")):
        assert fetch_image(complete(ref), Limits()).error.code in (ErrorCode.BAD_URI, ErrorCode.UNREADABLE)


def test_a_name_with_control_characters_is_read_and_no_row_holds_them(tmp_path):
    name = "\x1b[31m a\u202egpj.\u2028\n.jpg"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"content")
    [listed] = list_images(str(tmp_path / "in"))
    (tmp_path / "list.csv").write_text(f'uri\n"in/{name}"\n')
    [named] = read_list(str(tmp_path / "list.csv"))
    shard = write_tar(tmp_path / "s.tar", [(name, b"content")])
    [member] = list_images(str(shard))
    assert find_member(member.uri, local_ref(str(shard))) == member
    assert listed.uri == named.uri
    for ref in (listed, named, member):
        assert ref.uri.isprintable()
        assert fetch_image(ref, Limits()).content == b"content"


def test_a_listed_name_that_is_not_utf8_is_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"content")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\ngs://b/caf\xe9.jpg\n")
    local, remote = read_list(str(tmp_path / "list.txt"))
    assert fetch_image(local, Limits()).content == b"content"
    assert remote.error.code is ErrorCode.BAD_URI


def test_images_of_lists_folders_and_shards_mix_in_one_run(tmp_path, run_pipeline):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"a")
    shard = write_tar(tmp_path / "s.tar", MEMBERS)
    names = ["in/a.jpg", "in/gone.jpg", "s.tar#sub/b.png", "s.tar#none", "s.tar"]
    wanted = write_list(tmp_path / "list.csv", names)
    expected = [str(tmp_path / "in/a.jpg"), str(tmp_path / "in/gone.jpg"), f"{shard}#none"]
    expected += [f"{shard}#{name}" for name, _ in MEMBERS]
    with run_pipeline() as p:
        uris = p | MatchImages([str(tmp_path / "in")], lists=[str(wanted)]) | beam.Map(_uri)
        assert_that(uris, equal_to(expected))


def _uri(ref):
    return ref.uri


def test_a_named_member_is_found_or_says_what_is_missing(tmp_path):
    shard = write_tar(tmp_path / "s.tar", MEMBERS)
    found = complete(ImageRef(f"{shard}#sub/b.png"))
    assert fetch_image(found, Limits()).content == b"B"
    for uri in (f"{shard}#none", f"{tmp_path}/none.tar#a"):
        assert fetch_image(complete(ImageRef(uri)), Limits()).error.code is ErrorCode.NOT_FOUND


def moment(day):
    return datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("filters", "admitted"),
    [
        (Filters(), True),
        (Filters(suffixes=(".jpg", ".png")), True),
        (Filters(suffixes=(".png",)), False),
        (Filters(min_bytes=100, max_bytes=100), True),
        (Filters(min_bytes=101), False),
        (Filters(max_bytes=99), False),
        (Filters(changed_since=moment(2)), True),
        (Filters(changed_since=moment(3)), False),
        (Filters(sample=0.0), False),
        (Filters(sample=1.0), True),
    ],
)
def test_filters(filters, admitted):
    ref = ImageRef("/a.JPG", size_bytes=100, modified_ns=int(moment(2).timestamp()) * 10**9)
    assert filters.admit(ref) is admitted


def test_what_is_not_known_of_an_image_does_not_leave_it_out():
    assert Filters(min_bytes=5, max_bytes=9, changed_since=moment(1)).admit(ImageRef("/gone.jpg"))


def test_a_sample_is_the_fraction_asked_for_and_the_same_each_time():
    refs = [ImageRef(f"/{i}.jpg") for i in range(10_000)]

    def chosen(seed):
        return {ref.uri for ref in refs if Filters(sample=0.1, seed=seed).admit(ref)}

    assert chosen(1) == chosen(1)
    assert 900 < len(chosen(1)) < 1100
    assert 60 < len(chosen(1) & chosen(2)) < 140
