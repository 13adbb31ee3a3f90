"""What is kept of a stream of rows is what sorting all of them would give."""

import math
import random
from xml.etree import ElementTree

import pytest
from outputs import failed_row, scored_row

from mdmf_ops.report.tally import Smallest, Tally


@pytest.fixture(scope="module")
def rows():
    p_values = [random.Random(i).choice([0.001, 0.005, 0.02, 0.09, 0.3, 0.9]) for i in range(300)]
    scored = [scored_row(f"/a/{i:03d}", p, seed=i) for i, p in enumerate(p_values)]
    return [*scored, *(failed_row(f"/bad/{i}", "truncated" if i else "corrupt") for i in range(7))]


@pytest.fixture(scope="module")
def tally(rows):
    tally = Tally(list_rows=40, gallery_rows=10)
    for row in rows:
        tally.add(row)
    return tally


def scored(rows):
    return [row for row in rows if row["status"] == "scored"]


@pytest.mark.parametrize("count", [1, 5, 50, 500])
def test_the_smallest_are_those_that_sorting_gives_in_any_order_of_arrival(count):
    rows = [{"key": i % 13, "place": i} for i in range(100)]
    random.Random(count).shuffle(rows)
    smallest = Smallest(count, lambda row: (row["key"], row["place"]))
    for row in rows:
        smallest.push(row)
    assert smallest.rows() == sorted(rows, key=lambda row: (row["key"], row["place"]))[:count]


def test_equal_keys_do_not_compare_the_rows():
    smallest = Smallest(2, lambda _row: (1,))
    for name in "abc":
        smallest.push({"name": name})
    assert [row["name"] for row in smallest.rows()] == ["a", "b"]


def test_the_strongest_have_the_smallest_p_values_and_of_those_the_highest_scores(rows, tally):
    expected = sorted(scored(rows), key=lambda row: (row["p_value"], -row["mmd2"], row["image_uri"]))
    assert tally.sections["strongest"].rows() == expected[:10]
    assert tally.list.rows() == expected[:40]


def test_the_uncertain_are_nearest_to_alpha_by_ratio(tally):
    ratios = [max(row["p_value"] / 0.01, 0.01 / row["p_value"]) for row in tally.sections["uncertain"].rows()]
    assert ratios == sorted(ratios) and ratios[-1] <= 2.0001


def test_the_random_ones_do_not_follow_the_score_and_are_the_same_each_time(rows, tally):
    chosen = tally.sections["random"].rows()
    again = Tally(5, 10)
    for row in reversed(rows):
        again.add(row)
    assert again.sections["random"].rows() == chosen
    assert len({row["p_value"] for row in chosen}) > 2


def test_failed_rows_are_counted_by_code_with_a_few_examples(tally):
    assert tally.errors == {"truncated": 6, "corrupt": 1}
    assert [row["image_uri"] for row in tally.examples["truncated"]] == ["/bad/1", "/bad/2", "/bad/3"]
    assert tally.outcomes["failed"] == 7


def test_a_list_with_room_holds_the_failed_rows_last(rows):
    tally = Tally(1000, 1)
    for row in rows:
        tally.add(row)
    listed = tally.list.rows()
    assert len(listed) == len(rows)
    assert [row["status"] for row in listed[-8:]] == ["scored"] + ["failed"] * 7


def bar_counts(svg):
    """Sum of the counts that the bars of a chart say, by class."""
    found = {}
    for bar in ElementTree.fromstring(svg).iter("rect"):
        count = int(bar.find("title").text.partition(": ")[2].split()[0].replace(",", ""))
        found[bar.get("class")] = found.get(bar.get("class"), 0) + count
    return found


def test_every_scored_row_is_in_both_charts_under_its_verdict(tally):
    verdicts = {name: tally.outcomes[name] for name in ("likely_ai", "uncertain", "likely_real")}
    assert bar_counts(tally.p_value_chart()) == verdicts
    [chart] = tally.score_charts().values()
    assert bar_counts(chart) == verdicts


def test_each_detector_has_its_own_chart_of_scores_and_alpha_its_own_line():
    tally = Tally(10, 10)
    for i in range(6):
        tally.add(scored_row(f"/{i}", 0.5, seed=i, detector_id=f"d{i % 2}", alpha=0.01 if i < 4 else 0.05))
    tally.add(failed_row("/failed") | {"detector_id": "only failures"})
    assert list(tally.score_charts()) == ["d0", "d1"]
    assert {key: math.prod(counts.values()) for key, counts in tally.detectors.items() if key[0] == "d0"} == {
        ("d0", 0.01): 2,
        ("d0", 0.05): 1,
    }


def test_detectors_that_only_failed_take_no_chart_from_another():
    tally = Tally(10, 10)
    for i in range(40):
        tally.add(failed_row(f"/failed{i}") | {"detector_id": f"broken {i % 8}"})
    tally.add(scored_row("/a", 0.5, detector_id="d"))
    assert list(tally.score_charts()) == ["d"]


def tally_of(said):
    """Of rows that declare these pieces of software, in this order."""
    tally, row = Tally(1, 1), scored_row("/a", 0.5)
    for software in said:
        tally.add(row | {"declared_software": software})
    return tally


def test_what_strangers_declare_is_bounded():
    tally = tally_of(f"software {i}" for i in range(10_500))
    counts = tally.declared["declared_software"]
    assert len(counts) == 10_001 and counts["others"] == 500
    shown = tally.most_declared()["declared_software"]
    assert len(shown) == 13 and list(shown)[-1] == "others" and sum(shown.values()) == 10_500


def test_what_most_files_declare_is_shown_wherever_it_comes_and_the_rest_is_counted():
    tally = tally_of([*(f"Camera {i}" for i in range(60)), *["others"] * 70, *["Firefly"] * 500])
    shown = tally.most_declared()
    assert list(shown) == ["declared_software"], "what no file says is not shown"
    assert shown["declared_software"] == {"Firefly": 500, **{f"Camera {i}": 1 for i in range(11)}, "others": 119}
    assert tally_of(["Firefly"]).most_declared() == {"declared_software": {"Firefly": 1}}


def test_one_score_is_a_chart_too():
    tally = Tally(1, 1)
    tally.add(scored_row("/a", 0.5))
    [chart] = tally.score_charts().values()
    assert bar_counts(chart) == {"likely_real": 1}
