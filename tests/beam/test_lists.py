"""A line of a list costs its own row at most: never the run, and never another file's row."""

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from mdmf_ops.beam import ImageRef, MatchImages
from mdmf_ops.beam.lists import read_list
from mdmf_ops.beam.read import fetch_image
from mdmf_ops.beam.sources import complete
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


def _uri_and_code(ref):
    error = fetch_image(ref, Limits()).error
    return ref.uri, error and error.code.value


@pytest.mark.parametrize("uri", ["file://[x/y.jpg", "file://[x.tar#y.jpg", "gs:///x.jpg"])
def test_what_cannot_be_asked_about_is_a_failed_image(uri):
    image = fetch_image(complete(ImageRef(uri, attributes={"a": "b"})), Limits())
    assert (image.ref.uri, image.ref.attributes) == (uri, {"a": "b"})
    assert image.error.code is ErrorCode.UNREADABLE


def test_a_file_uri_names_what_its_percent_signs_stand_for(tmp_path):
    for name in ("ü x.jpg", "k.tar#a.jpg", "a?b#c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
        (tmp_path / "list.txt").write_text((tmp_path / name).as_uri())
        [ref] = read_list(str(tmp_path / "list.txt"))
        assert fetch_image(complete(ref), Limits()).content == name.encode()
