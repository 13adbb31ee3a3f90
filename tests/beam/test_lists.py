"""A line of a list costs its own row at most: never the run, and never another file's row."""

import os

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.beam import ImageRef, MatchImages
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.lists import read_list
from mdmf_ops.beam.run import dataset_root
from mdmf_ops.beam.shards import _name
from mdmf_ops.beam.sources import complete, list_images
from mdmf_ops.beam.storage import absolute, direct_path
from mdmf_ops.detector import ErrorCode, Limits

NO_PATHS = {
    "an authority": b"file://photos/x.jpg",
    "no path at all": b"file://x.jpg",
    "this machine": b"file://localhost/x.jpg",
    "no IPv6": b"file://[x/y.jpg",
    "no UTF-8": b"file:///caf\xe9.jpg",
    "a query": b"file:///x.jpg?y",
    "a fragment": b"file:///x.jpg#y",
    "a tab": b"file:///a\tb.jpg",
}


@pytest.mark.parametrize("name", NO_PATHS)
def test_a_line_that_names_no_local_file_is_a_row_of_its_own(tmp_path, name, run_pipeline):
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "list.txt").write_bytes(NO_PATHS[name] + b"\na.jpg\n")
    refused, _fit = read_list(str(tmp_path / "list.txt"))
    assert refused.error.code is ErrorCode.BAD_URI and "file:///PATH" in refused.error.message
    with run_pipeline() as p:
        codes = p | MatchImages([], lists=[str(tmp_path / "list.txt")], complete_lists=True) | beam.Map(_uri_and_code)
        assert_that(codes, equal_to([(refused.uri, "bad_uri"), (str(tmp_path / "a.jpg"), None)]))


@pytest.mark.parametrize("name", NO_PATHS)
def test_no_source_is_another_folder_than_its_uri_says(name):
    source = os.fsdecode(NO_PATHS[name])
    for refused in (absolute, list_images_of, dataset_root):
        with pytest.raises(ValueError, match="file:///PATH, percent-encoded, is expected"):
            refused(source)


def list_images_of(source):
    return list(list_images(source))


def test_an_empty_name_is_not_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for refused in (absolute, list_images_of, dataset_root, lambda name: MatchImages([name])):
        with pytest.raises(ValueError, match="an empty name"):
            refused("")
    assert [ref.uri for ref in list_images(".")] == [str(tmp_path / "a.jpg")]


def _uri_and_code(ref):
    error = fetch_image(ref, Limits()).error
    return ref.uri, error and error.code.value


@pytest.mark.parametrize(
    ("uri", "code"),
    [("file://[x/y.jpg", "bad_uri"), ("file://[x.tar#y.jpg", "unreadable"), ("gs:///x.jpg", "unreadable")],
)
def test_what_cannot_be_asked_about_is_a_failed_image(uri, code):
    image = fetch_image(complete(ImageRef(uri, attributes={"a": "b"})), Limits())
    assert (image.ref.uri, image.ref.attributes) == (uri, {"a": "b"})
    assert image.error.code.value == code


def test_a_file_uri_names_what_its_percent_signs_stand_for(tmp_path):
    for name in ("ü x.jpg", "k.tar#a.jpg", "a?b#c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / "list.txt").write_text((tmp_path / name).as_uri())
        [ref] = read_list(str(tmp_path / "list.txt"))
        assert fetch_image(complete(ref), Limits()).content == name.encode()


@pytest.fixture
def archive(tmp_path):
    """An image, and folders and links beside it from which its name may start."""
    for name in ("photos/cat.jpg", "lists/l.txt", "far/away/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to("far/away")
    (tmp_path / "same").symlink_to(".")
    return tmp_path


SPELLINGS = [
    *("../photos/cat.jpg", "{root}/photos/cat.jpg", "file://{root}/photos/cat.jpg", "/{root}/photos/cat.jpg"),
    *("{root}//photos/./cat.jpg", "file://{root}/lists/..//photos/c%61t.jpg", "file:///{root}/photos/cat.jpg"),
    *("{root}/link/../../photos/cat.jpg", "{root}/photos/../photos/cat.jpg"),
]


def test_one_image_is_one_row_however_it_is_named(archive, run_pipeline):
    spelled = [spelling.format(root=archive) for spelling in SPELLINGS]
    (archive / "lists/l.txt").write_text("\n".join(spelled))
    plain = f"{archive}/photos/cat.jpg"
    assert [ref.uri for ref in read_list(f"{archive}/lists/../lists/l.txt")] == [plain] * len(spelled)
    sources = [plain, *(name for name in spelled if name.startswith(("/", "file:")))]
    sources += [f"{archive}/lists/../photos", f"file://{archive}/lists/../photos", f"{archive}/lists/../p*/*.jpg"]
    with run_pipeline() as p:
        found = p | MatchImages(sources, lists=[f"{archive}/lists/l.txt"]) | beam.Map(_uri)
        assert_that(found, equal_to([plain]))


def _uri(ref):
    return ref.uri


def test_a_link_on_the_way_to_an_image_stays_in_its_name(archive):
    (archive / "lists/l.txt").write_text("../same/photos/cat.jpg\n")
    [ref] = read_list(f"{archive}/lists/l.txt")
    assert ref.uri == f"{archive}/same/photos/cat.jpg"


@given(st.lists(st.sampled_from(["photos", "far", "away", "link", "same", "cat.jpg", "..", ".", ""]), max_size=7))
def test_a_path_without_detours_is_the_same_file(tmp_path_factory, parts):
    root = tmp_path_factory.getbasetemp() / "detours"
    if not root.exists():
        for name in ("photos", "far/away"):
            (root / name).mkdir(parents=True)
        (root / "photos/cat.jpg").touch()
        (root / "link").symlink_to("far/away")
        (root / "same").symlink_to(".")
    path = "/".join([str(root), *parts])
    direct = direct_path(path)
    assert "//" not in direct and not {"..", "."} & set(direct.split("/")) and direct_path(direct) == direct
    if os.path.exists(path):  # noqa: PTH110  # a Path would drop what is to be dropped
        assert os.path.samestat(os.stat(direct), os.stat(path))  # noqa: PTH116


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_spaces_at_the_ends_of_a_name_are_the_names_own(tmp_path, suffix):
    (tmp_path / " a.jpg ").write_bytes(b"spaced")
    names = [" a.jpg ", f"{tmp_path}/ a.jpg "]
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        path.write_text("uri\r\n" + "".join(f"{name}\r\n" for name in names) + "  \r\n")
    else:
        pq.write_table(pa.table({"uri": [*names, "  ", None]}), path)
    refs = list(read_list(str(path)))
    assert [fetch_image(ref, Limits()).content for ref in refs] == [b"spaced"] * 2


def test_a_csv_that_is_none_is_named_with_its_line(tmp_path):
    path = tmp_path / "list.csv"
    for text in ("uri\na.jpg\n" + "x" * 200_000, "x" * 200_000):
        path.write_text(text)
        after = text.count("\n")
        with pytest.raises(ValueError, match=rf"list\.csv: after line {after}: field larger than field limit"):
            list(read_list(str(path)))


@pytest.mark.parametrize("behind", ["c.jpg\nd.jpg\n", '"c.jpg"\nd.jpg\n', ""])
def test_an_open_quote_in_a_csv_swallows_no_line_behind_it(tmp_path, behind):
    path = tmp_path / "list.csv"
    path.write_text('uri\na.jpg\n"b.jpg\n' + behind)
    with pytest.raises(ValueError, match=r"list\.csv: after line 2: "):
        list(read_list(str(path)))


@pytest.mark.parametrize("line", ["/photos/a.jpg, 2.jpg", "/photos/a.jpg,", '"/photos/a.jpg",2.jpg'])
def test_a_name_with_a_comma_that_is_not_quoted_is_no_other_image(tmp_path, line):
    path = tmp_path / "list.csv"
    path.write_text(f"uri\n/b.jpg\n{line}\n/c.jpg\n")
    with pytest.raises(ValueError, match=r"list\.csv: line 3: more fields than columns"):
        list(read_list(str(path)))


def test_a_row_that_ends_before_the_column_is_not_left_out(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("n,uri\n1,/a.jpg\n\n/b.jpg\n3,/c.jpg\n")
    with pytest.raises(ValueError, match=r"list\.csv: line 4: ends before column 'uri'"):
        list(read_list(str(path)))


def test_a_device_or_a_folder_is_no_list(tmp_path):
    for path in (os.devnull, str(tmp_path)):
        with pytest.raises(OSError, match=f"{path}: not a file"):
            list(read_list(path))


@pytest.mark.parametrize("kind", [pa.struct({"a": pa.string()}), pa.list_(pa.string()), pa.int64()])
def test_a_column_of_no_text_is_said_in_a_line(tmp_path, kind):
    pq.write_table(pa.table({"uri": pa.array([None], kind)}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"list\.parquet: no text in column 'uri': .* from (struct<|list<|int64)"):
        list(read_list(str(tmp_path / "list.parquet")))


def test_a_parquet_list_that_is_none_is_named(tmp_path):
    (tmp_path / "list.parquet").write_text("uri\n/a.jpg\n")
    with pytest.raises(ValueError, match=r"list\.parquet: no text in column 'uri': .*magic bytes"):
        list(read_list(str(tmp_path / "list.parquet")))


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_a_name_in_a_parquet_list_that_is_not_utf8_is_read_and_costs_no_other(tmp_path, kind):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"content")
    written = pa.array([b"a.jpg", os.fsencode(name), b"gs://b/caf\xe9.jpg"], pa.binary())
    column = pa.Array.from_buffers(kind, 3, written.buffers())
    pq.write_table(pa.table({"uri": column}), tmp_path / "list.parquet")
    plain, local, remote = read_list(str(tmp_path / "list.parquet"))
    assert plain.uri == str(tmp_path / "a.jpg")
    assert fetch_image(local, Limits()).content == b"content"
    assert remote.error.code is ErrorCode.BAD_URI


@pytest.mark.parametrize("name", ["d/" * 600 + "a.jpg", "control\x01.jpg", "line\nbreak.jpg", "100%.jpg", "a ü.jpg"])
@pytest.mark.parametrize("root", ["gs://bucket", "/photos"])
def test_a_list_may_name_every_image_of_a_shard_as_its_row_does(tmp_path, root, name):
    uri = f"{root}/s.tar#{_name(name)}"
    plain = f"{root}/s.tar#{name}"
    written = {uri} | ({plain} if "%" not in name else set())
    pq.write_table(pa.table({"uri": sorted(written)}), tmp_path / "list.parquet")
    assert {(ref.uri, ref.error) for ref in read_list(str(tmp_path / "list.parquet"))} == {(uri, None)}


def test_quotes_that_close_are_read(tmp_path):
    (tmp_path / "list.csv").write_text('uri,n\n"/a,""b"".jpg",1\n/c"d.jpg,2\n"/e.jpg"\n')
    assert [ref.uri for ref in read_list(str(tmp_path / "list.csv"))] == ['/a,"b".jpg', '/c"d.jpg', "/e.jpg"]
