"""Tar shards from strangers: each image is a row, or one says that the shard is damaged; no name hides another."""

import argparse
import datetime
import os
import tarfile
from collections import Counter
from itertools import islice
from urllib.parse import unquote

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.arguments.scan import add_arguments
from mdmf_ops.beam import Filters, ImageRef, MatchImages, shards
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import split_member
from mdmf_ops.beam.shards import _name, find_member, is_shard, list_members, refuse_name_of_member
from mdmf_ops.beam.sources import complete, list_images
from mdmf_ops.beam.storage import local_ref
from mdmf_ops.commands import scan
from mdmf_ops.detector import ErrorCode, Limits
from mdmf_ops.text import fits_a_line

END = bytes(1024)


def blocks(content):
    return content + bytes(-len(content) % 512)


def header(kind=tarfile.REGTYPE, size=0, name="x"):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


def file(name, content=b"image"):
    return header(size=len(content), name=name) + blocks(content)


def pax(record, kind=tarfile.XHDTYPE):
    return header(kind, len(record)) + blocks(record)


def record(key, value):
    text = f" {key}={value}\n"
    length = next(n for n in range(len(text), len(text) + 20) if len(str(n)) + len(text) == n)
    return f"{length}{text}".encode()


def signed(block, changes):
    """A header with bytes changed and its checksum right."""
    block = bytearray(block)
    for offset, content in changes.items():
        block[offset : offset + len(content)] = content
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def binary_size(size, kind=tarfile.REGTYPE):
    """A header whose size is binary, as GNU tar writes what octal digits cannot hold."""
    binary = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    return signed(header(kind), {124: binary})


def long_names(count):
    return b"".join(header(b"L", 5) + blocks(b"name\0") for _ in range(count))


def keywords(total_bytes, first=b""):
    """A header that tarfile takes for as many keywords as it has pairs of bytes, each of all that follows."""
    return first + b"2 " * ((total_bytes - len(first)) // 2 - 1) + b"a="


def pieces(count):
    """A sparse file of old GNU tar: blocks before its bytes say where its pieces belong, 21 each."""
    block = b"00000000001\0" * 42
    head = signed(header(b"S", 5, "sparse.jpg"), {386: block[:96], 482: b"\1", 483: b"00000000005\0"})
    return head + (block + b"\1" + bytes(7)) * (count - 1) + block + bytes(8) + blocks(b"image")


HOSTILE = {
    "back to the member before": pax(record("size", -1536)) + file("b.jpg"),
    "back to its own header": pax(record("size", -512)) + file("b.jpg"),
    "a byte less than none": pax(record("size", -1)) + file("b.jpg"),
    "less than none for all": pax(record("size", -1), tarfile.XGLTYPE) + file("b.jpg"),
    "less than none in binary": binary_size(-1) + END,
    "less than none of a header": binary_size(-512, tarfile.XHDTYPE) + file("b.jpg"),
    "back by a kind that is none": pax(record("size", -2048)) + header(b"Z"),
    "beyond 64 bits": pax(record("size", 10**30)) + file("b.jpg"),
    "beyond 64 bits in binary": binary_size(2**80) + END,
    "beyond what can be sought": pax(record("size", 2**63 - 1)) + file("b.jpg"),
    "no number": pax(record("GNU.sparse.map", "1,x")) + file("b.jpg"),
    "pieces cut short": signed(header(b"S"), {482: b"\1"}),
    "pieces of a sparse file without end": pieces(4000) + file("b.jpg"),
    "a map of pieces without end": pax(record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0"))
    + file("b.jpg", b"900000\n" + b"1\n" * 1_800_000),
    "1,500 long names": long_names(1500) + file("b.jpg"),
    "keywords of all that follows": pax(keywords(1 << 16)) + file("b.jpg"),
    "keywords for all members": pax(keywords(1 << 14, b"5 a=\n"), tarfile.XGLTYPE) * 9 + file("b.jpg"),
}


def test_a_sparse_file_costs_no_more_than_its_own_image(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg") + pieces(2000) + file("c.jpg") + END)
    refs = {split_member(ref.uri)[1]: ref.error and ref.error.code for ref in list_images(str(shard))}
    assert refs == {"a.jpg": None, "sparse.jpg": ErrorCode.UNREADABLE, "c.jpg": None}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_made_to_hurt_end_the_shard_with_one_row(tmp_path, name):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg") + HOSTILE[name])
    first, damage = islice(list_images(str(shard)), 50)
    assert fetch_image(first, Limits()).content == b"image"
    assert (damage.uri, damage.size_bytes) == (str(shard), shard.stat().st_size)
    assert damage.error.code is ErrorCode.CORRUPT


HIDING = {
    "two tars in one": END + file("b.jpg") + END,
    "a zeroed header": bytes(512) + blocks(b"image") + file("c.jpg") + END,
    "a hole of 4 KiB": bytes(4096) + file("c.jpg") + END,
    "a hole and a byte": bytes(512) + b"x",
    "zeros up to where they are more than an end": bytes((8 << 20) + 512) + file("b.jpg") + END,
}


@pytest.mark.parametrize("name", HIDING)
def test_images_behind_zeros_are_not_lost_without_a_row(tmp_path, name):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg") + HIDING[name])
    for first, damage in (list_images(str(shard)), list_members(ImageRef(str(shard)))):
        assert first.uri == f"{shard}#a.jpg" and first.error is None
        assert (damage.uri, damage.error.code) == (str(shard), ErrorCode.CORRUPT)
        assert "zeros" in damage.error.message
    # Named in a list, the image before them is read as ever.
    assert fetch_image(complete(ImageRef(first.uri)), Limits()).content == b"image"
    assert "zeros" in complete(ImageRef(f"{shard}#b.jpg")).error.message


@pytest.mark.parametrize("end_bytes", [0, 512, 1024, 10240, 8 << 20])
def test_a_shard_may_end_in_any_number_of_zeros_that_tars_do(tmp_path, end_bytes):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg") + bytes(end_bytes))
    for refs in (list_images(str(shard)), list_members(ImageRef(str(shard)))):
        assert [(ref.uri, ref.error) for ref in refs] == [(f"{shard}#a.jpg", None)]


def test_a_hole_of_a_tebibyte_is_not_read_to_its_end(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg"))
    os.truncate(shard, 1 << 40)
    _first, damage = list_images(str(shard))
    assert (damage.uri, damage.error.code) == (str(shard), ErrorCode.CORRUPT)


def test_a_hard_link_in_a_shard_is_a_row_that_names_its_target(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"image")
    (tmp_path / "in" / "b.jpg").hardlink_to(tmp_path / "in" / "a.jpg")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.add(tmp_path / "in" / name, name)
    first, link = list_images(str(tmp_path / "s.tar"))
    assert fetch_image(first, Limits()).content == b"image"
    assert link.uri == f"{tmp_path}/s.tar#b.jpg"
    for ref in (link, complete(ImageRef(link.uri))):
        image = fetch_image(ref, Limits())
        assert (image.content, image.error.code) == (None, ErrorCode.UNREADABLE)
        assert "a hard link to a.jpg" in image.error.message
        assert all(FILTERS[name].admit(ref) for name in ("suffixes", "max_bytes"))


@pytest.mark.parametrize("kind", [b"Z", b"A", b"M", b"N", b"\xff"])
def test_a_member_of_a_kind_that_none_knows_is_an_image(tmp_path, kind):
    shard = tmp_path / "s.tar"
    odd = header(kind, size=6, name="b.jpg") + blocks(b"hidden")
    shard.write_bytes(file("a.jpg") + odd + file("c.jpg") + END)
    refs = {split_member(ref.uri)[1]: ref for ref in list_images(str(shard))}
    assert list(refs) == ["a.jpg", "b.jpg", "c.jpg"]
    for ref in (refs["b.jpg"], complete(ImageRef(f"{shard}#b.jpg"))):
        assert fetch_image(ref, Limits()).content == b"hidden"


@pytest.mark.parametrize("kind", [b"V", b"D", tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_no_tar_extracts_as_a_file_is_no_image(tmp_path, kind):
    shard = tmp_path / "s.tar"
    data = blocks(b"Ya.jpg\0") if kind == b"D" else b""  # the names in the folder
    shard.write_bytes(header(kind, size=7 if data else 0) + data + file("a.jpg") + END)
    assert [split_member(ref.uri)[1] for ref in list_images(str(shard))] == ["a.jpg"]


def test_a_shard_is_listed_once_in_whatever_order_a_list_names_its_images(tmp_path, monkeypatch, run_pipeline):
    names = [f"{shard}.tar#{i}.jpg" for i in range(20) for shard in range(6)]  # never two of one shard in a row
    for shard in range(6):
        (tmp_path / f"{shard}.tar").write_bytes(b"".join(file(f"{i}.jpg") for i in range(20)) + END)
    (tmp_path / "list.txt").write_text("\n".join([*names, "5.tar", "a.jpg"]))
    opened, open_file = Counter(), shards.open_file

    def counted(uri, generation):
        opened[uri] += 1
        return open_file(uri, generation)

    monkeypatch.setattr(shards, "open_file", counted)
    with run_pipeline() as p:
        found = p | MatchImages([], lists=[str(tmp_path / "list.txt")]) | beam.Map(_uri)
        assert_that(found, equal_to([f"{tmp_path}/{name}" for name in [*names, "a.jpg"]]))
    assert opened == {f"{tmp_path}/{shard}.tar": 1 + (shard == 5) for shard in range(6)}


def test_long_headers_that_tar_writes_are_read(tmp_path):
    names = ["d/" * 1900 + f"{i}.jpg" for i in range(30)]
    for fmt in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=fmt, pax_headers={"comment": "c" * 4000}) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.pax_headers = {"SCHILY.xattr.user.a": "v" * 4000}
                archive.addfile(info)
        assert [split_member(ref.uri)[1] for ref in list_images(str(tmp_path / "s.tar"))] == names


def test_a_size_that_the_shard_does_not_have_is_not_read_past_its_image(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(header(size=10_000, name="a.jpg") + b"image")
    cut, damage = list_images(str(shard))
    assert fetch_image(cut, Limits()).error.code is ErrorCode.TRUNCATED
    assert (damage.uri, damage.error.code) == (str(shard), ErrorCode.CORRUPT)


@pytest.fixture
def damaged(tmp_path):
    """A shard of one image before what no tar can be."""
    path = tmp_path / "in" / "k.tar"
    path.parent.mkdir()
    path.write_bytes(file("a.jpg") + b"?" * 512 + file("b.jpg"))
    os.utime(path, (0, 0))
    return path


LATER = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
FILTERS = {
    "suffixes": Filters(suffixes=(".jpg",)),
    "max_bytes": Filters(max_bytes=5),
    "min_bytes": Filters(min_bytes=10**9),
    "changed_since": Filters(changed_since=LATER),
    "sample": Filters(sample=0.0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_no_filter_leaves_out_a_shard_that_could_not_be_listed(damaged, name, run_pipeline):
    (wanted := damaged.parent.parent / "list.txt").write_text("in/k.tar\n")
    expected = [str(damaged)] + [f"{damaged}#a.jpg"] * (name in ("suffixes", "max_bytes"))
    for sources, lists in (([str(damaged.parent)], []), ([], [str(wanted)])):
        with run_pipeline() as p:
            uris = p | MatchImages(sources, lists=lists, filters=FILTERS[name]) | beam.Map(_uri)
            assert_that(uris, equal_to(expected))


def _uri(ref):
    return ref.uri


@pytest.mark.parametrize("flag", ["--suffix=.jpg", "--max_bytes=5", "--changed_since=2030-01-01", "--sample=0.000001"])
def test_a_dry_run_counts_a_shard_that_could_not_be_listed(damaged, flag):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([str(damaged.parent), "--output", "out", flag])
    assert str(damaged) in {ref.uri for ref in scan._inputs(arguments)}


def test_a_name_that_was_refused_stays_in():
    ref = refuse_name_of_member(ImageRef("gs://bucket/k.tar#a.jpg", size_bytes=100))
    assert all(filters.admit(ref) for filters in FILTERS.values())


def test_filters_of_names_hold_for_members_that_cannot_be_read(damaged):
    missing = complete(ImageRef(f"{damaged}#none.txt"))
    assert missing.error and not FILTERS["suffixes"].admit(missing)


@pytest.mark.parametrize("name", ["S.TAR", "s.Tar", "s.tar"])
def test_images_of_a_shard_in_any_case_are_read_and_found_again(tmp_path, name):
    shard = tmp_path / name
    shard.write_bytes(file("a.jpg") + file("inner.tar") + END)
    refs = list(list_images(str(tmp_path)))
    assert [ref.uri for ref in refs] == [f"{shard}#a.jpg", f"{shard}#inner.tar"]
    for ref in refs:
        assert ref.container == str(shard)
        assert fetch_image(ref, Limits()).content == b"image"
        assert fetch_image(complete(ImageRef(ref.uri)), Limits()).content == b"image"


def test_a_tar_in_a_shard_is_an_image_of_it_when_a_list_names_it(tmp_path, run_pipeline):
    (tmp_path / "s.tar").write_bytes(file("inner.tar") + END)
    (tmp_path / "list.txt").write_text("s.tar#inner.tar\n")
    with run_pipeline() as p:
        found = p | MatchImages([], lists=[str(tmp_path / "list.txt")]) | beam.Map(_uri_and_error)
        assert_that(found, equal_to([(f"{tmp_path}/s.tar#inner.tar", None)]))


def _uri_and_error(ref):
    return ref.uri, ref.error


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("%01/#\x01"), max_size=6))
def test_a_members_name_can_be_told_from_its_uri(name):
    told = _name(name)
    assert fits_a_line(told) and "%object" not in told
    assert (unquote(told) if "%" in told else told) == name


def test_names_that_escape_each_other_are_two_rows(tmp_path, run_pipeline):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a\x01.png", b"raw") + file("a%01.png", b"said") + file("a+b ü.png", b"plain") + END)
    expected = [("a%01.png", b"raw"), ("a%2501.png", b"said"), ("a+b ü.png", b"plain")]
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f'"s.tar#{name}"\n' for name, _ in expected))
    with run_pipeline() as p:
        read = p | MatchImages([str(shard)], lists=[str(tmp_path / "list.csv")]) | beam.Map(_uri_and_content)
        assert_that(read, equal_to([(f"{shard}#{name}", content) for name, content in expected]))


def _uri_and_content(ref):
    return ref.uri, fetch_image(ref, Limits()).content


@pytest.mark.parametrize("mark", [".tar#", ".TAR#"])
def test_no_file_can_pass_for_an_image_in_a_shard(tmp_path, mark, run_pipeline):
    root = tmp_path / "in"
    (root / f"b{mark}c").mkdir(parents=True)
    suffix = mark.removesuffix("#")
    (root / f"k{suffix}").write_bytes(file("a.jpg", b"member") + END)
    (root / f"k{mark}a.jpg").write_bytes(b"file")
    (root / f"b{mark}c" / "s.tar").write_bytes(file("a.jpg", b"deep") + END)
    quoted = mark.replace("#", "%23")
    expected = {
        f"{root}/k{mark}a.jpg": b"member",
        f"file://{root}/k{quoted}a.jpg": b"file",
        f"file://{root}/b{quoted}c/s.tar#a.jpg": b"deep",
    }
    with run_pipeline() as p:
        read = p | MatchImages([str(root)]) | beam.Map(_uri_and_content)
        assert_that(read, equal_to(list(expected.items())))
    for uri, content in expected.items():
        assert fetch_image(complete(ImageRef(uri)), Limits()).content == content
    (root / f"k{suffix}").unlink()
    gone = fetch_image(complete(ImageRef(f"{root}/k{mark}a.jpg")), Limits())
    assert (gone.content, gone.error.code) == (None, ErrorCode.NOT_FOUND)


def test_a_shard_named_by_a_file_uri_is_the_same_shard(tmp_path):
    shard = tmp_path / "s x.tar"
    shard.write_bytes(file("a.jpg") + END)
    ref = complete(ImageRef(f"file://{tmp_path}/s%20x.tar#a.jpg"))
    assert ref.uri == f"file://{tmp_path}/s%20x.tar#a.jpg"
    assert fetch_image(ref, Limits()).content == b"image"


def test_an_object_whose_name_reads_as_a_member_is_refused_under_a_name_of_its_own():
    refs = [ImageRef(f"gs://bucket/{name}", 1) for name in ("k.tar#a.jpg", "K.TAR#a.jpg", "d.tar#/x.tar", "a#b.jpg")]
    *refused, plain = map(refuse_name_of_member, refs)
    assert plain == refs[-1]
    assert len({ref.uri for ref in refused}) == 3
    for ref in refused:
        assert ref.error.code is ErrorCode.BAD_URI and "rename" in ref.error.message
        assert not is_shard(ref.uri)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "s.tar").touch(0)
    [ref] = list_images(str(tmp_path))
    assert ref.error.code is ErrorCode.FORBIDDEN


def test_what_cannot_be_opened_is_told_from_what_is_damaged(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    codes = {ref.uri.rpartition("/")[2]: ref.error.code for ref in list_images(str(tmp_path))}
    unreadable = dict.fromkeys(("pipe.tar", "loop.tar"), ErrorCode.UNREADABLE)
    assert codes == unreadable | {"gone.tar": ErrorCode.NOT_FOUND}


def test_a_place_in_a_shard_of_no_known_version_is_not_read(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(file("a.jpg") + END)
    assert find_member(f"{shard}#a.jpg", local_ref(str(shard))).error is None
    assert find_member(f"{shard}#a.jpg", ImageRef(str(shard))).error.code is ErrorCode.NOT_FOUND
