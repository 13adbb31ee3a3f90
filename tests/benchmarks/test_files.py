"""Files of a dataset, as simulated: even whatever the names, none left by retries, as many as the closed form says."""

import importlib.util
import sys

import numpy as np
import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("files", ROOT / "benchmarks/files.py")
files = importlib.util.module_from_spec(spec)
sys.modules["files"] = files
spec.loader.exec_module(files)


@pytest.mark.parametrize("hot_share", [0.0, 0.9])
def test_every_image_is_in_one_file_and_no_file_has_a_multiple_of_the_others(hot_share):
    rows = files.shard_rows(files.archive(20_000, 100, hot_share), 16)
    assert len(rows) == 16 and sum(rows) == 20_000
    assert max(rows) < 1.2 * np.mean(rows) and min(rows) > 0.8 * np.mean(rows)


@pytest.mark.parametrize("try_fails", [0.0, 0.3])
def test_retries_write_more_often_and_leave_no_file_more(try_fails):
    done = files.write_shards(5000, try_fails)
    assert done.files == 5000
    # A geometric number of failures a shard, half of which have written the file.
    assert done.strays == done.puts - 5000 == pytest.approx(5000 * 0.5 * try_fails / (1 - try_fails), rel=0.1)


@pytest.mark.parametrize(
    ("first", "nightly", "expected"), [(1, 0, 1 + 365), (250_000, 100_001, 3 + 2 * 365), (10**9, 10**5, 1000 + 365)]
)
def test_a_night_adds_a_file_for_each_hundred_thousand_images_and_one_at_least(first, nightly, expected):
    assert files.nightly_files(first, nightly, 365) == expected


def test_a_streams_files_are_its_windows_where_nothing_is_late():
    assert files.stream_files(2, 300, 50, late=0) == 2 * 288
    assert files.stream_files(1, 3600, 100, late=0) == 24 * (1 + 3)  # 360,000 rows: three panes are full before
    assert files.stream_files(1, 300, 0, late=0) == 0


def test_late_images_make_a_file_each_where_they_are_rare_and_share_one_where_they_are_many():
    windows = 288
    rare = files.stream_files(1, 300, 1, late=0.001)
    assert rare - windows == pytest.approx(windows * 300 * 0.001, rel=0.25)
    many = files.stream_files(1, 300, 100, late=0.2)
    assert 10 * windows < many - windows < 50 * windows  # 6,000 a window, a file for each minute until they thin out
