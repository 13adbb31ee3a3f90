"""Every query of docs/sql.md, run on files that scans wrote and compared with the same question answered in Python."""

import datetime
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answers import ANSWERS, copies, disagreements, flagged, newest, newly_flagged, scored
from conftest import ROOT, copy_detector, encode, photo, write_images
from declared import IPTC, WEB_UI_TEXT, picture, png_with_text, signed, xmp
from pages import blocks, sections
from scans import scan

from mdmf_ops.beam import Run
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard
from mdmf_ops.beam.runs import latest_rows, latest_sql
from mdmf_ops.beam.stream.drift import sample, summarise
from mdmf_ops.detector import Detector
from mdmf_ops.detector.calibration import verdict
from mdmf_ops.schema import SCHEMA

PAGE = ROOT / "docs/sql.md"
START = "Start here"
QUERIES = {
    heading: query for heading, text in sections(PAGE).items() if heading != START for query in blocks(text, "sql")
}
[OF_A_DAY] = blocks((ROOT / "docs/rescan.md").read_text(), "sql")

NOTHING = {field.name: None for field in SCHEMA if field.nullable}
UNAVAILABLE = NOTHING | {"status": "failed", "error_code": "unavailable", "error_message": "HTTP 503"}
BEFORE_1_2 = {"declared_us": None, "device": None, "precision": None}


def write_earlier(source, output, run_id, weeks, day, some=slice(None), **changed):
    """Commits some rows of a scan as they would be, had it run on a day of an earlier week, changed as told."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(hour=12)
    date = now + datetime.timedelta(weeks=-weeks, days=day - now.weekday())
    run = Run(str(output), run_id, f"{date:%Y-%m-%d}", date.isoformat(timespec="seconds"))
    [path] = source.glob("scan_date=*/*.parquet")
    rows = pq.ParquetFile(path).read().to_pylist()[some]
    rows = [
        row | changed | {"run_id": run_id, "scanned_at": date + datetime.timedelta(seconds=i)}
        for i, row in enumerate(rows)
    ]
    commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `scores`: a scan of weeks ago, four of last week by two detectors, and a killed one.

    Of last week's scans two saw the same images under each detector, and the last could read none of its two.
    """
    home = tmp_path_factory.mktemp("home")
    photos = write_images(home / "photos", good=9, broken=4)
    for name in ("cat", "coffee", "flower", "temple"):
        (photos / "samples").mkdir(exist_ok=True)
        shutil.copy(ROOT / f"samples/real/{name}.jpg", photos / "samples")
    shutil.copy(photos / "samples/cat.jpg", photos / "samples/again.jpg")
    shutil.copy(photos / "samples/flower.jpg", photos / "copy.jpg")
    (photos / "says").mkdir()
    (photos / "says/camera.jpg").write_bytes(signed("JPEG", "digitalCapture", "Camera"))
    (photos / "says/phone.jpg").write_bytes(picture("JPEG", xmp=xmp(IPTC + "computationalCapture", "Phone 9")))
    (photos / "says/webui.png").write_bytes(png_with_text(parameters=WEB_UI_TEXT))
    scan(photos, home / "one", alpha=0.01)
    write_earlier(home / "one", home / "scores", "one", weeks=3, day=0)
    write_earlier(home / "one", home / "scores", "one-again", weeks=1, day=0, device="cuda GPU")

    copy_detector(home / "other", "other")
    (photos / "samples/cat.jpg").write_bytes(encode(photo(77)))
    (photos / "new.png").write_bytes(encode(photo(78), "PNG"))
    (photos / "samples/temple.jpg").unlink()
    scan(photos, home / "two", alpha=0.9, assets=str(home / "other"))
    write_earlier(home / "two", home / "scores", "two", weeks=1, day=1)
    half = slice(None, None, 2)
    write_earlier(home / "two", home / "scores", "two-again", weeks=1, day=2, some=half, **BEFORE_1_2)
    write_earlier(home / "two", home / "scores", "unread", weeks=1, day=3, some=slice(2), **UNAVAILABLE)

    scan(photos, home / "three", run_id="killed", alpha=0.9)
    shutil.copytree(home / "three", home / "scores", dirs_exist_ok=True, ignore=lambda _folder, _names: ["_runs"])
    assert len(list(home.glob("scores/scan_date=*/*.parquet"))) == 6
    return home


@pytest.fixture
def database(home, monkeypatch):
    monkeypatch.chdir(home)
    database = duckdb.connect()
    database.sql(blocks(sections(PAGE)[START], "sql")[0])
    return database


@pytest.fixture(scope="module")
def rows(home):
    """Every row of the committed runs, read without SQL, with the folder and the week that the queries speak of."""
    manifests = [json.loads(path.read_text()) for path in home.glob("scores/_runs/*.json")]
    rows = []
    for file in (file for manifest in manifests for file in manifest["files"]):
        rows += pq.ParquetFile(home / "scores" / file["path"]).read().to_pylist()
    for row in rows:
        row["folder"] = row["image_uri"].rpartition("/")[0] + "/"
        day = row["scanned_at"].date()
        row["week"] = day - datetime.timedelta(days=day.weekday())
    return rows


def test_every_query_of_the_page_is_answered_here():
    assert list(QUERIES) == list(ANSWERS)
    assert len(QUERIES) >= 12


@pytest.mark.parametrize("question", ANSWERS)
def test_the_query_gives_what_python_finds(question, database, rows):
    answer = database.sql(QUERIES[question]).fetchall()
    expected = ANSWERS[question](rows)
    assert len(answer) == len(expected)
    assert answer or question == "Is every run whole?", "a question that nothing answers tests nothing"
    for found, wanted in zip(answer, expected, strict=True):
        for value, want in zip(found, wanted, strict=True):
            assert value == (pytest.approx(want, rel=1e-6, abs=1e-6) if isinstance(want, float) else want), (
                found,
                wanted,
            )


def database_of(scores):
    """The views of the page over an output that lies elsewhere."""
    database = duckdb.connect()
    database.sql(blocks(sections(PAGE)[START], "sql")[0].replace("'scores/", f"'{scores}/"))
    return database


def test_of_two_rows_of_one_moment_every_query_takes_the_same(rows, tmp_path):
    row = {name: rows[0][name] for name in SCHEMA.names}
    for run_id in ("a", "c", "b"):
        run = Run(str(tmp_path), run_id, "2026-01-01", "2026-01-01T00:00:00+00:00")
        commit(run, 1, [write_shard(run, 0, 1, [row | {"run_id": run_id}])], CommitOptions())
    for query in ("latest", f"({latest_sql(str(tmp_path))})"):
        assert database_of(tmp_path).sql(f"select run_id from {query}").fetchall() == [("c",)]
    assert [row["run_id"] for row in latest_rows(str(tmp_path))] == ["c"]


def test_of_an_overwritten_object_every_query_takes_the_newest_generation_whichever_row_was_last(rows, tmp_path):
    """A stream may be told of the older one behind the newer; a reference to no generation may fail at any time."""
    row = {name: rows[0][name] for name in SCHEMA.names}
    row |= {"status": "scored", "verdict": "likely_ai", "error_code": None, "image_uri": "gs://b/a"}
    overwritten = {"status": "failed", "verdict": None, "error_code": "changed"}
    tries = [(7, {}), (9, {}), (9, {"verdict": "uncertain"}), (8, overwritten), (None, overwritten)]
    for i, (generation, changed) in enumerate(tries):
        run = Run(str(tmp_path), f"r{i}", "2026-01-01", f"2026-01-01T00:00:0{i}+00:00")
        moment = datetime.datetime(2026, 1, 1, 0, 0, i, tzinfo=datetime.timezone.utc)
        made = row | changed | {"run_id": run.run_id, "scanned_at": moment, "image_generation": generation}
        commit(run, 1, [write_shard(run, 0, 1, [made])], CommitOptions())
    for query in ("latest", f"({latest_sql(str(tmp_path))})"):
        assert database_of(tmp_path).sql(f"select run_id from {query}").fetchall() == [("r2",)]
    assert [row["run_id"] for row in latest_rows(str(tmp_path))] == ["r2"]


def test_a_column_that_a_file_lacks_is_null_and_one_that_all_lack_is_not_there(rows, tmp_path):
    row = {name: rows[0][name] for name in SCHEMA.names}
    for i in range(2):
        run = Run(str(tmp_path), f"r{i}", "2026-01-01", "2026-01-01T00:00:00+00:00")
        commit(run, 1, [write_shard(run, 0, 1, [row | {"run_id": f"r{i}", "device": "cpu"}])], CommitOptions())
    query = "select run_id, device from scores order by run_id"
    for i, expected in ((0, [("r0", None), ("r1", "cpu")]), (1, None)):
        [path] = tmp_path.glob(f"scan_date=*/r{i}-*.parquet")
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["device"]), path)
        if expected:
            assert database_of(tmp_path).sql(query).fetchall() == expected
        else:
            with pytest.raises(duckdb.BinderException, match='"device" not found'):
                database_of(tmp_path).sql(query)


def test_folders_above_an_output_are_no_columns(home, rows, tmp_path):
    scores = tmp_path / "verdict=done/alpha=7/run_id=0/scan_date=2020-02-02"
    shutil.copytree(home / "scores", scores, ignore=shutil.ignore_patterns("_drift"))
    database = database_of(scores)
    day = max(row["scanned_at"] for row in rows if row["verdict"] == "likely_ai").date()
    found = database.sql(OF_A_DAY.replace("2026-01-31", str(day)).replace("'scores/", f"'{scores}/")).fetchall()
    assert len(found) == flagged(row for row in rows if row["scanned_at"].date() == day) > 0
    names = ("image_uri", "run_id", "verdict", "alpha")
    for query, wanted in (("scores", rows), (f"({latest_sql(str(scores))})", newest(rows))):
        found = database.sql(f"select {', '.join(names)}, scan_date from {query}").fetchall()
        assert sorted(found, key=str) == sorted(
            [(*(row[name] for name in names), row["scanned_at"].date()) for row in wanted], key=str
        )


def test_a_question_of_one_day_reads_that_days_files(database, rows):
    day = min(row["scanned_at"].date() for row in rows)
    [(_, plan)] = database.sql(f"explain analyze select verdict from scores where scan_date = '{day}'").fetchall()
    assert "Scanning Files: 1/6" in plan.replace("\n", " ")


def test_a_run_with_a_row_too_few_is_found(database, home):
    [path] = home.glob("scores/scan_date=*/one-0*.parquet")
    whole = path.read_bytes()
    try:
        pq.write_table(pq.ParquetFile(path).read().slice(1), path)
        [line] = database.sql(QUERIES["Is every run whole?"]).fetchall()
        assert line[0] == "one" and line[1] == line[2] + line[3] + 1
    finally:
        path.write_bytes(whole)


def test_the_queries_of_other_pages_run(database, home, rows):
    once, of_drift = blocks((ROOT / "docs/stream.md").read_text(), "sql")
    of_each = {(row["image_uri"], row["detector_id"]) for row in rows}
    of_each |= {(row["image_uri"], row["detector_id"]) for row in read_killed(home)}
    assert len(database.sql(once).fetchall()) == len(of_each)

    moment = datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc)
    of = {"stream_id": "s", "window_start": moment, "window_end": moment, "pane": "ontime0"}
    table = summarise([sample(rows)], of)
    folder = home / "scores/_drift/scan_date=2026-01-31"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "s.parquet")
    drifted = database.sql(of_drift).fetchall()
    assert sum(line[2] for line in drifted) == len(scored(rows))


def read_killed(home):
    [path] = home.glob("scores/scan_date=*/killed-*.parquet")
    return pq.ParquetFile(path).read(["image_uri", "detector_id"]).to_pylist()


def test_the_history_has_what_the_questions_are_about(rows):
    assert {row["run_id"] for row in rows} == {"one", "one-again", "two", "two-again", "unread"}
    assert len({row["detector_id"] for row in rows}) == len({row["week"] for row in rows}) == 2
    assert {why for *_, why in newly_flagged(rows)} <= {"another picture", "another detector"}
    assert copies([row for row in rows if row["run_id"] == "one"])


# What the queries say of rows that are few enough to see the answer.


def made(*rows, **columns):
    """A database whose `scores` are these rows, or these columns, with `latest` as the page has it."""
    database = duckdb.connect()
    database.register("scores", pa.table(columns) if columns else pa.Table.from_pylist(rows))
    [start] = blocks(sections(PAGE)[START], "sql")
    database.sql(start[start.index("create or replace view latest") :])
    return database


def scan_of(uri, day, verdict, **changed):
    """A row of a scan of that day in the week of 5 January 2026; without a verdict it failed."""
    row = {
        "image_uri": uri,
        "image_generation": None,
        "folder": "",
        "scanned_at": datetime.datetime(2026, 1, 5 + day, tzinfo=datetime.timezone.utc),
    }
    row |= {"run_id": f"run{day}", "status": "scored" if verdict else "failed", "verdict": verdict, "p_value": 0.5}
    row |= {"detector_id": "a", "image_sha256": uri, "image_format": "JPEG", "mmd2": 0.1, "width_px": 8, "height_px": 8}
    row |= {"alpha": 0.01, "device": "cpu", "declared_by": "xmp", "declared_software": "x", "c2pa_signature": None}
    return row | changed


def test_of_an_image_that_was_flagged_and_then_failed_the_page_says_how_to_see_the_flag():
    database = made(scan_of("cat", 0, "likely_ai"), scan_of("cat", 1, None))
    question = "What is the newest verdict of every image?"
    assert [line[1:3] for line in database.sql(QUERIES[question]).fetchall()] == [("failed", None)]
    assert "with `where status = 'scored'` before `qualify`" in sections(PAGE)[question]
    [start] = blocks(sections(PAGE)[START], "sql")
    view = start[start.index("create or replace view latest") :]
    database.sql(view.replace("qualify", "where status = 'scored'\nqualify"))
    assert [line[1:3] for line in database.sql(QUERIES[question]).fetchall()] == [("scored", "likely_ai")]


@pytest.mark.parametrize("alpha", ["0.001", "0.01", "0.05", "0.07", "0.1"])
def test_another_alpha_is_asked_of_p_values_and_their_ties_count_as_flagged(alpha):
    p_values = [k / n for n in (100, 451, 1000) for k in range(1, n + 1)]
    wanted = [verdict(p_value, float(alpha)).value == "likely_ai" for p_value in p_values]
    column = pa.array(p_values, pa.float32())
    database = made(p_value=column, image_uri=column, image_generation=column, scanned_at=column, run_id=column)
    page = (ROOT / "docs/analysts.md").read_text()
    for asked, again in (("p_value <= 0.05", alpha), ("p_value <= 0.05 + 1e-7", f"{alpha}::double")):
        assert f"`{asked}`" in page
        found = database.sql(f"select {asked.replace('0.05', again)} from scores").fetchall()
        assert [flagged for (flagged,) in found] == wanted
    missed = database.sql(f"select count(*) from scores where p_value <= {alpha} and not p_value <= {alpha}::double")
    ties = sum(p_value == float(alpha) < np.float32(p_value).item() for p_value in p_values)
    assert missed.fetchall() == [(ties,)]
    assert "1/451" in page and Detector.load(device="cpu").calibration.strata[0].scores.size == 450


def test_newly_flagged_is_what_the_newest_two_scores_say():
    verdicts = {
        "cat": ("likely_real", None, "likely_ai"),
        "temple": ("likely_real", "likely_ai", "likely_real"),
        "coffee": ("likely_real", "likely_ai", "likely_ai"),
        "flower": ("uncertain", "likely_ai", None),
        "new": (None, None, "likely_ai"),
    }
    rows = [scan_of(uri, day, verdict) for uri, of in verdicts.items() for day, verdict in enumerate(of)]
    found = made(*rows).sql(QUERIES["Which images are flagged now and were not before?"]).fetchall()
    assert [line[:2] for line in found] == [("cat", "likely_real"), ("flower", "uncertain")]
    assert [row[:2] for row in newly_flagged(rows)] == [line[:2] for line in found]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"device": "cuda NVIDIA H100"}, "another device, precision or version"),
        ({}, "another device, precision or version"),  # another decoder of the same bytes
        ({"alpha": 0.9}, "another alpha"),
        ({"alpha": 0.9, "device": "cuda NVIDIA H100"}, "another alpha"),
        ({"detector_id": "b", "alpha": 0.9}, "another detector"),
        ({"image_sha256": "other", "detector_id": "b"}, "another picture"),
    ],
    ids=str,
)
def test_newly_flagged_says_why(changed, why):
    rows = [scan_of("cat", 0, "uncertain"), scan_of("cat", 1, "likely_ai", **changed)]
    found = made(*rows).sql(QUERIES["Which images are flagged now and were not before?"]).fetchall()
    assert found == newly_flagged(rows) == [("cat", "uncertain", 0.5, why)]


def test_every_verdict_may_disagree_with_what_a_file_says():
    sources = ("digitalCapture", "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "digitalArt", None)
    verdicts = ("likely_ai", "uncertain", "likely_real", None)
    rows = [
        scan_of(f"{verdict} {source}", 0, verdict, declared_source=source) for verdict in verdicts for source in sources
    ]
    found = made(*rows).sql(QUERIES["Which images do verdict and declaration disagree on?"]).fetchall()
    assert found == disagreements(rows)
    assert [line[0] for line in found] == [
        "likely_ai digitalCapture",
        *(f"{verdict} {source}" for verdict in verdicts[2:0:-1] for source in sorted(sources[1:3])),
    ]


def test_an_image_counts_once_a_week_however_often_it_was_scored():
    rows = [scan_of(uri, day, "likely_real") for uri in ("a", "b", "c") for day in (0, 1)]
    rows += [scan_of("a", 2, "likely_ai"), scan_of("b", 3, None), scan_of("c", 7, "likely_ai")]
    found = made(*rows).sql(QUERIES["How many images are flagged, by week and source?"]).fetchall()
    assert [line[2:] for line in found] == [(3, 1, 0.3333), (1, 1, 1.0)]
    found = made(*rows).sql(QUERIES["Do the images drift?"]).fetchall()
    assert [line[3] for line in found] == [3, 1]


def test_scores_of_two_detectors_are_no_drift():
    rows = [scan_of(str(i), 0, "likely_real", mmd2=i / 10) for i in range(3)]
    rows += [scan_of(str(i), 7, "likely_real", mmd2=i / 10 - 0.78, detector_id="b") for i in range(3)]
    rows += [scan_of(str(i), 14, "likely_real", mmd2=i / 10 + 0.05) for i in range(3)]
    found = made(*rows).sql(QUERIES["Do the images drift?"]).fetchall()
    assert [(line[1], line[5]) for line in found] == [("a", None), ("a", pytest.approx(0.05)), ("b", None)]


def test_what_rows_do_not_say_costs_nothing_and_waiting_for_a_gpu_is_no_core_hour():
    hour_us = 3_600_000_000
    took = {"decode_us": hour_us, "score_us": 2 * hour_us, "declared_us": hour_us, "image_bytes": 7, "device": "cpu"}
    nothing = dict.fromkeys((*took, "image_sha256"))
    rows = [
        scan_of("a", 0, "likely_real", **took),
        scan_of("a", 1, "likely_real", **took | {"declared_us": None, "device": None}),
        scan_of("a", 2, None, **nothing),
        scan_of("a", 3, "likely_real", **took | {"decode_us": 0, "device": "cuda NVIDIA H100"}),
    ]
    found = made(*rows).sql(QUERIES["What does a scan cost?"]).fetchall()
    assert [line[1:] for line in found] == [(1, 4, 0, 7), (1, 3, 0, 7), (0, 0, None, 0), (1, 1, 1, 7)]


def above(rng, sizes, rate, alpha=0.01):
    """Excess of each stratum that the query lists, of made images, flagged at a rate and of so many in each stratum."""
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    verdicts = np.where(rng.random(stratum.size) < rate, "likely_ai", "likely_real")
    database = made(
        image_uri=np.arange(stratum.size).astype(str),
        image_format=stratum.astype(str),
        verdict=verdicts,
        **{
            name: pa.repeat(value, stratum.size)
            for name, value in (("status", "scored"), ("detector_id", "a"), ("jpeg_quality", pa.scalar(90, pa.int16())))
        },
        alpha=np.full(stratum.size, alpha, np.float32),
        image_generation=pa.nulls(stratum.size, pa.int64()),
        scanned_at=np.zeros(stratum.size, "datetime64[us]"),
        run_id=pa.repeat("run", stratum.size),
    )
    return np.array([line[-1] for line in database.sql(QUERIES[FAR_ABOVE]).fetchall()])


FAR_ABOVE = "Where is the flag rate far above alpha?"


def test_a_large_excess_is_no_accident():
    rng = np.random.default_rng(0)
    assert "fewer than one in 1,000 come above 5" in sections(PAGE)[FAR_ABOVE].replace("\n", " ")
    sizes = [1, 5, 20, 73, 150, 600] * 1000
    by_chance = above(rng, sizes, rate=0.01)
    assert len(by_chance) and (by_chance > 5).sum() < len(sizes) / 1000
    assert (above(rng, [10, 100, 1000], rate=0.6) > 5).all(), "a stratum that is flagged throughout is not missed"


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.2])
def test_no_number_of_images_makes_an_excess_of_five_likely(alpha):
    # Beyond ten expected flags it is rarer and rarer.
    for images in range(5, round(10 / alpha)):
        enough = max(5, math.floor(images * alpha + 5 * math.sqrt(images * alpha * (1 - alpha))) + 1)
        chance = math.comb(images, enough) * alpha**enough * (1 - alpha) ** (images - enough)
        # Each term of the tail is less than this times the one before it.
        ratio = (images - enough) / (enough + 1) * alpha / (1 - alpha)
        assert chance / (1 - ratio) < 0.001


def test_analysts_count_images_of_committed_runs(home, rows, tmp_path):
    (tmp_path / "mdmf").write_text(f'#!/bin/sh\nexec {sys.executable} -m mdmf_ops "$@"\n')
    (tmp_path / "mdmf").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    in_sql, in_python = (
        subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=home, env=environment).stdout
        for block in blocks((ROOT / "docs/analysts.md").read_text(), "python")
    )
    counts = Counter(row["verdict"] or "NULL" for row in newest(rows))
    assert dict(re.findall(r"│ (\w+) +│ +(\d+) │", in_sql)) == {verdict: str(n) for verdict, n in counts.items()}
    images = scored(newest(rows))
    assert in_python == f"{flagged(images)} flagged of {len(images)}\n"
