"""Strangers' text: what a row, a log and a terminal may hold of it."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.detector import ErrorCode, ImageError
from mdmf_ops.text import fits_a_line, name_of_refused, one_line, told

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@example.org/a.jpg",
        f"ftp://{SECRET}@example.org",
        f"https://example.org/a.jpg?X-Goog-Signature={SECRET}&X-Goog-Expires=900",
        f"https://example.org/a.jpg#access_token={SECRET}",
        f"gs://bucket/a.jpg?x-goog-signature={SECRET}",
        f"s3://bucket/a.jpg?AWSAccessKeyId=x&Signature={SECRET}",
        f"'https://example.org/a?sig={SECRET}': not read, 'https://me:{SECRET}@b.org/' neither",
        f"Max retries exceeded with url: /upload/storage/v1/b/x/o?uploadType=resumable&upload_id={SECRET} (by x)",
    ],
)
def test_no_secret_of_a_url_is_told(text):
    assert SECRET in text
    for shown in (told(text), name_of_refused(text), str(ImageError(ErrorCode.BAD_URI, text))):
        assert SECRET not in shown and "..." in shown


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/a?b=c@d.jpg: no such object",
        "/photos/me@home/a#1.jpg",
        "file:///photos/a%20b.jpg",
        "expected one of a, b; found c: is it 1 or 2?",
    ],
)
def test_what_is_no_secret_is_told_as_it_is(text):
    assert told(text) == text == name_of_refused(text)


@given(st.text(), st.integers(0, 50))
def test_a_line_has_no_control_characters_and_its_length(text, max_chars):
    line = one_line(text, max_chars)
    assert len(line) <= max_chars and fits_a_line(line)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", line)
    assert not fits_a_line(text) or line == text[:max_chars]


def test_refused_names_that_differ_in_what_is_not_told_stay_two():
    names = [name_of_refused(f"https://example.org/a?item={i}") for i in range(3)]
    assert len(set(names)) == 3
    long = [name_of_refused("https://example.org/" + "a" * 5000 + end) for end in "xy"]
    assert len(set(long)) == 2 and max(map(len, long)) < 1100


@pytest.mark.parametrize("piece", ["a.", "://", "https://", "url: /", "?token=", "@", "a://b"])
def test_a_text_made_to_take_long_does_not(piece):
    began_s = time.process_time()
    told(piece * 1_000_000)
    assert time.process_time() - began_s < 2
