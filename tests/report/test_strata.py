"""Rates by kind of image, and the warning where one is flagged far beyond alpha."""

import math
import time
from collections import Counter

import numpy as np
import pytest
from outputs import failed_row, scored_row

from mdmf_ops.report import strata
from mdmf_ops.report.strata import OTHER_SOURCES, Counts, Stratum, folder_of, image_strata, wilson


def counted(rows):
    counts = Counts()
    for row in rows:
        counts.add(row)
    return counts


def of_kind(counts, kind):
    return {s.name: s for s in counts.strata() if s.kind == kind}


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 20), (3, 100), (50, 100), (999, 1000), (7, 7)])
def test_the_interval_is_all_rates_that_the_count_does_not_rule_out(hits, trials):
    # Wilson's interval is where |observed - rate| is within z standard errors of that rate: searched for here.
    rates = np.linspace(0, 1, 2_000_001)
    kept = rates[np.abs(hits / trials - rates) <= 1.959964 * np.sqrt(rates * (1 - rates) / trials)]
    assert wilson(hits, trials) == pytest.approx((kept.min(), kept.max()), abs=1e-6)


def test_nothing_counted_is_nothing_known():
    assert wilson(0, 0) == (0, 1)
    assert Stratum("format", "PNG", 0, 0, 0, 3, 0.0).rate is None


@pytest.mark.parametrize(
    ("scored", "flagged", "alpha", "warned"),
    [
        (1000, 10, 0.01, False),  # as promised
        (1000, 25, 0.01, False),  # more than that, but less than three times beyond doubt
        (1000, 100, 0.01, True),
        (1000, 100, 0.05, False),  # of rows whose alpha asks for as many
        (19, 19, 0.01, False),  # too few to judge
        (20, 20, 0.01, True),
        (200_000, 6_500, 0.01, True),
    ],
)
def test_a_stratum_is_warned_of_where_it_is_flagged_far_beyond_alpha(scored, flagged, alpha, warned):
    assert Stratum("format", "PNG", scored, flagged, 0, 0, scored * alpha).warned is warned


def test_chance_alone_hardly_ever_warns():
    # 20,000 strata of real images, each flagged at alpha: binomial counts, drawn here.
    flagged = np.random.default_rng(1).binomial(100, 0.01, 20_000)
    warned = [Stratum("source", "s", 100, int(n), 0, 0, 1.0).warned for n in flagged]
    assert np.mean(warned) < 0.001


def test_rows_are_counted_by_what_they_say():
    rows = [
        scored_row("/a/1.jpg", 0.005),
        scored_row("/a/2.jpg", 0.05, jpeg_quality=95),
        scored_row("/b/3.png", 0.5, image_format="PNG", jpeg_quality=None, width_px=4000, height_px=3000),
        failed_row("/b/4.jpg"),
    ]
    counts = counted(rows)
    assert {name: (s.scored, s.flagged, s.uncertain) for name, s in of_kind(counts, "format").items()} == {
        "JPEG": (2, 1, 1),
        "PNG": (1, 0, 0),
    }
    assert list(of_kind(counts, "JPEG quality")) == ["not JPEG-like", "75-84", "95-100"]
    assert list(of_kind(counts, "size")) == ["below 0.25 MP", "12 MP and more"]
    assert {name: (s.scored, s.failed) for name, s in of_kind(counts, "source").items()} == {"/a": (2, 0), "/b": (1, 1)}
    overall = counts.overall()
    assert (overall.scored, overall.flagged, overall.failed) == (3, 1, 1)
    assert overall.expected == pytest.approx(0.03)


@pytest.mark.parametrize(("quality", "name"), [(1, "below 60"), (59, "below 60"), (60, "60-74"), (95, "95-100")])
def test_a_quality_on_the_border_belongs_to_the_class_above(quality, name):
    assert image_strata(scored_row("/a", 0.5, jpeg_quality=quality))["JPEG quality"] == name


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/photos/2026/a.jpg", "/photos/2026"),
        ("gs://bucket/day 1/a.jpg", "gs://bucket/day 1"),
        ("gs://bucket/shard.tar#in/a.jpg", "gs://bucket/shard.tar"),
        ("gs://bucket/SHARD.TAR#in/a.jpg", "gs://bucket/SHARD.TAR"),
        ("gs://bucket/s.tar#in/b.tar#a.jpg", "gs://bucket/s.tar"),
        ("gs://bucket/s.tar.gz#in/a.jpg", "gs://bucket/s.tar.gz#in"),
        ("a.jpg", ""),
    ],
)
def test_the_folder_is_what_is_before_the_name(uri, folder):
    assert "/".join(folder_of(uri)) == folder


def test_sources_are_the_deepest_folders_that_are_few_enough():
    rows = [scored_row(f"gs://b/{kind}/{day}/a.jpg", 0.5) for kind in ("web", "phone") for day in range(40)]
    assert set(of_kind(counted(rows), "source")) == {"gs://b/web", "gs://b/phone"}
    assert len(of_kind(counted(rows[:25]), "source")) == 25


def test_of_many_folders_side_by_side_the_largest_are_named():
    rows = [scored_row(f"/all/{i:03d}/{j}.jpg", 0.5) for i in range(100) for j in range(1 + (i < 5))]
    sources = of_kind(counted(rows), "source")
    assert len(sources) == 30
    assert {f"/all/{i:03d}" for i in range(5)} < set(sources)
    assert sources[OTHER_SOURCES].scored == 100 - 29
    assert sum(s.scored for s in sources.values()) == len(rows)


def test_memory_is_bounded_however_many_folders_there_are(monkeypatch):
    monkeypatch.setattr(strata, "_MAX_FOLDERS", 50)
    counts = counted(scored_row(f"/all/{i % 7}/{i}/{i}/a.jpg", 0.5) for i in range(500))
    assert len(counts._folders) <= 50
    assert sum(s.scored for s in of_kind(counts, "source").values()) == 500
    assert set(of_kind(counts, "source")) == {f"/all/{i}" for i in range(7)}


def test_an_image_in_hundreds_of_folders_costs_the_page_no_minute():
    row, deep = scored_row("/a", 0.5), "gs://b/" + "a/" * 480 + "x.jpg"
    uris = [deep, *(f"gs://b/in/{i}/a.jpg" for i in range(20_500))]
    started_s = time.process_time()
    counts = counted(row | {"image_uri": uri} for uri in uris)
    sources = of_kind(counts, "source")
    assert time.process_time() - started_s < 10, "it took over half a minute, a level at a time"
    assert {name: s.scored for name, s in sources.items()} == {"gs://b/in": 20_500, "gs://b/a": 1}


@pytest.mark.parametrize("uris", [["/a/1/x", "/b/2/y", "gs://c/3/z"], [f"{i}/a/x" for i in range(40)]])
@pytest.mark.parametrize("most", [1, 2, 50])
def test_an_image_is_listed_under_a_source_that_is_counted(uris, most, monkeypatch):
    monkeypatch.setattr(strata, "_MAX_FOLDERS", most)
    counts = counted(scored_row(uri, 0.5) for uri in uris)
    listed = Counter(counts.sources().name(folder_of(uri)) for uri in uris)
    assert listed == {name: s.scored for name, s in of_kind(counts, "source").items()}


def test_a_thousand_files_without_a_folder_are_one_source():
    counts = counted(scored_row(f"{i}.jpg", 0.5) for i in range(100))
    assert [(s.name, s.scored) for s in counts.strata() if s.kind == "source"] == [("/", 100)]


def test_expected_adds_up_the_alpha_of_each_row():
    counts = counted([scored_row("/a/1", 0.5, alpha=0.01), scored_row("/a/2", 0.5, alpha=0.05), failed_row("/a/3")])
    assert math.isclose(counts.overall().expected, 0.06)
