"""Errors travel: as one line to people, as bytes between workers."""

import pickle

from conftest import BROKEN
from formats import error_of

from mdmf_ops.detector import ErrorCode, ImageError


def test_an_error_is_one_line_of_at_most_300_characters():
    hostile = "a\nb\r\tc\x00\x1b[31m\x7f\x85\u2028\u2029\u202ed\ud800 \u00e9\u6f22\U0001f600" + "x" * 1000
    error = ImageError(ErrorCode.CORRUPT, hostile)
    assert len(error.message) == 300
    assert len(str(error).splitlines()) == 1
    assert error.message.startswith("a b c [31m d  \u00e9\u6f22\U0001f600xxx")
    str(error).encode()


def test_an_error_can_be_pickled_between_workers():
    error = error_of(BROKEN["half.png"])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (again.code, again.message, str(again)) == (error.code, error.message, str(error))
    assert again.code is ErrorCode.TRUNCATED
