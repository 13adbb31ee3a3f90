"""Every query of docs/sql.md, run on files that scans wrote and compared with the same question answered in Python."""

import datetime
import json
import math
import shutil
from collections import Counter, defaultdict
from itertools import groupby, pairwise
from statistics import mean, median

import duckdb
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, copy_detector, encode, photo, write_images
from declared import IPTC, WEB_UI_TEXT, picture, png_with_text, signed, xmp
from pages import blocks, sections
from scans import scan

from mdmf_ops.beam import Run
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard
from mdmf_ops.beam.drift import sample, summarise

PAGE = ROOT / "docs/sql.md"
START = "Start here"
QUERIES = {
    heading: query for heading, text in sections(PAGE).items() if heading != START for query in blocks(text, "sql")
}


def write_earlier(source, output, run_id, days):
    """Commits the rows of a scan as they would be, had it run some days earlier."""
    date = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)
    run = Run(str(output), run_id, f"{date:%Y-%m-%d}", date.isoformat(timespec="seconds"))
    [path] = source.glob("scan_date=*/*.parquet")
    rows = pq.ParquetFile(path).read().to_pylist()
    rows = [row | {"run_id": run_id, "scanned_at": date + datetime.timedelta(seconds=i)} for i, row in enumerate(rows)]
    commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `scores`: a scan of weeks ago, one by another detector of last week, and a killed one."""
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
    write_earlier(home / "one", home / "scores", "one", days=21)

    copy_detector(home / "other", "other")
    (photos / "samples/cat.jpg").write_bytes(encode(photo(77)))
    (photos / "new.png").write_bytes(encode(photo(78), "PNG"))
    (photos / "samples/temple.jpg").unlink()
    scan(photos, home / "two", alpha=0.9, assets=str(home / "other"))
    write_earlier(home / "two", home / "scores", "two", days=5)

    scan(photos, home / "three", run_id="killed", alpha=0.9)
    shutil.copytree(home / "three", home / "scores", dirs_exist_ok=True, ignore=lambda _folder, _names: ["_runs"])
    assert len(list(home.glob("scores/scan_date=*/*.parquet"))) == 3
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


def newest(rows, key="image_uri"):
    found = {}
    for row in sorted(rows, key=lambda row: row["scanned_at"]):
        found[row[key]] = row
    return list(found.values())


def scored(rows):
    return [row for row in rows if row["status"] == "scored"]


def grouped(rows, *keys):
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(key(row) if callable(key) else row[key] for key in keys)].append(row)
    return groups


def flagged(rows):
    return sum(row["verdict"] == "likely_ai" for row in rows)


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def history(rows):
    """Consecutive rows of each image, in pairs."""
    in_time = sorted(rows, key=lambda row: (row["image_uri"], row["scanned_at"]))
    for _, images in groupby(in_time, key=lambda row: row["image_uri"]):
        yield from pairwise(images)


def newest_verdicts(rows):
    names = ("image_uri", "status", "verdict", "p_value", "scanned_at", "detector_id")
    return sorted(columns(newest(rows), *names))


def flag_rates(rows):
    groups = grouped(scored(rows), "week", "folder")
    return [(*key, len(g), flagged(g), round(flagged(g) / len(g), 4)) for key, g in sorted(groups.items())]


def excess(rows):
    def quality_from(row):
        return "none" if row["jpeg_quality"] is None else str(row["jpeg_quality"] // 10 * 10)

    found = []
    for key, group in grouped(scored(newest(rows)), "image_format", quality_from).items():
        rate, alpha = flagged(group) / len(group), mean(row["alpha"] for row in group)
        found.append((*key, len(group), rate, (rate - alpha) / math.sqrt(alpha * (1 - alpha) / len(group))))
    return sorted(found, key=lambda row: (-row[4], row[0], row[1]))


def changes(rows):
    pairs = Counter()
    for of_content in grouped(scored(rows), "image_sha256").values():
        of_detector = newest(of_content, "detector_id")
        for before in of_detector:
            for after in of_detector:
                if before["scanned_at"] < after["scanned_at"]:
                    key = (before["detector_id"], after["detector_id"], before["verdict"], after["verdict"])
                    pairs[key] += 1
    return sorted((*key, count) for key, count in pairs.items())


def newly_flagged(rows):
    found = []
    for before, after in history(rows):
        if after["verdict"] == "likely_ai" and before["verdict"] not in (None, "likely_ai"):
            why = "the same again: look at alpha"
            if after["image_sha256"] != before["image_sha256"]:
                why = "another picture"
            elif after["detector_id"] != before["detector_id"]:
                why = "another detector"
            found.append((after["image_uri"], before["verdict"], after["p_value"], why))
    return sorted(found)


def record(rows):
    uri = min(row["image_uri"] for row in newest(rows) if row["verdict"] == "likely_ai")
    found = sorted((row for row in rows if row["image_uri"] == uri), key=lambda row: row["scanned_at"])
    return columns(
        found,
        *("scanned_at", "run_id", "row_id", "image_generation", "image_sha256", "mmd2", "p_value", "alpha", "verdict"),
        *("detector_id", "signature_sha256", "bank_sha256", "calibration_id", "declared_source", "c2pa_signature"),
    )


def strongest_patches(rows):
    picture = min(scored(newest(rows)), key=lambda row: (row["p_value"], row["image_uri"]))
    evidence, found = iter(picture["patch_evidence"]), []
    for tile in picture["tiles"]:
        for i in range(picture["grid_rows"]):
            for j in range(picture["grid_cols"]):
                top, left = tile["top_px"] + i * picture["patch_px"], tile["left_px"] + j * picture["patch_px"]
                found.append((picture["image_uri"], top, left, next(evidence)))
    return sorted(found, key=lambda row: (-row[3], row[1], row[2]))[:10]


def drift(rows):
    found, before = [], {}
    for (image_format, week), group in sorted(grouped(scored(rows), "image_format", "week").items()):
        now = median(row["mmd2"] for row in group)
        short = median(min(row["width_px"], row["height_px"]) for row in group)
        change = now - before[image_format] if image_format in before else None
        found.append((week, image_format, len(group), now, change, short))
        before[image_format] = now
    return found


def tenths(rows):
    counts = Counter(min(int(row["p_value"] * 10), 9) for row in scored(newest(rows)))
    return sorted(counts.items())


def cost(rows):
    found = []
    for (run_id,), group in sorted(grouped(rows, "run_id").items()):
        hours = sum(row[name] or 0 for row in group for name in ("decode_us", "score_us", "declared_us")) / 3.6e9
        done = len(scored(group))
        read = sum(row["image_bytes"] for row in group if row["image_sha256"])
        found.append((run_id, done, hours, round(done / hours), read))
    return found


def by_size(rows):
    assert all(row["width_px"] * row["height_px"] < 1e6 for row in scored(rows))
    group = scored(rows)
    times = [mean(row[name] for row in group) / 1000 for name in ("decode_us", "score_us")]
    return [("under 1 megapixel", len(group), mean(len(row["tiles"]) for row in group), *times)]


def failures(rows):
    failed = [row for row in rows if row["status"] == "failed"]
    of_run = Counter(row["run_id"] for row in failed)
    found = []
    for (run_id, code), group in grouped(failed, "run_id", "error_code").items():
        example = min(group, key=lambda row: row["image_uri"])
        share = len(group) / of_run[run_id]
        found.append((run_id, code, len(group), share, example["image_uri"], example["error_message"]))
    return sorted(found, key=lambda row: (row[0], -row[2], row[1]))


def never_scored(rows):
    found = []
    for (uri,), group in sorted(grouped(rows, "image_uri").items()):
        if not scored(group):
            last = newest(group)[0]
            found.append((uri, len(group), last["scanned_at"], last["error_code"]))
    return found


def provenance(rows):
    says = (
        (row["declared_source"] or "nothing", row["c2pa_signature"] or "none", row["verdict"] or "failed")
        for row in newest(rows)
    )
    return sorted((*key, count) for key, count in Counter(says).items())


def disagreements(rows):
    camera, generated = ("digitalCapture", "computationalCapture"), ("trainedAlgorithmicMedia",)
    found = [
        row
        for row in newest(rows)
        if (row["verdict"] == "likely_ai" and row["declared_source"] in camera)
        or (row["verdict"] == "likely_real" and row["declared_source"] in generated)
    ]
    found.sort(key=lambda row: (row["verdict"], row["p_value"], row["image_uri"]))
    names = ("image_uri", "verdict", "p_value", "declared_source", "declared_by", "declared_software", "c2pa_signature")
    return columns(found, *names)


def copies(rows):
    groups = grouped((row for row in newest(rows) if row["image_sha256"]), "image_sha256")
    found = [
        (sha256, len(g), min(row["image_uri"] for row in g), len({row["verdict"] for row in g} - {None}))
        for (sha256,), g in groups.items()
        if len(g) > 1
    ]
    return sorted(found, key=lambda row: (-row[1], row[0]))


ANSWERS = {
    "What is the newest verdict of every image?": newest_verdicts,
    "How many images are flagged, by week and source?": flag_rates,
    "Where is the flag rate far above alpha?": excess,
    "What changed between two detectors?": changes,
    "Which images are flagged now and were not before?": newly_flagged,
    "Someone disputes a verdict: what is on record?": record,
    "Where in an image does the score come from?": strongest_patches,
    "Do the images drift?": drift,
    "Are the p-values of a known source even?": tenths,
    "What does a scan cost?": cost,
    "Which images cost most?": by_size,
    "What failed, and why?": failures,
    "Which images has no run ever scored?": never_scored,
    "What do files say of themselves, against the verdict?": provenance,
    "Which images do verdict and declaration disagree on?": disagreements,
    "Which pictures are there more than once?": copies,
    "Is every run whole?": lambda rows: [],
}


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


def test_a_run_with_a_row_too_few_is_found(database, home):
    [path] = home.glob("scores/scan_date=*/one-*.parquet")
    whole = path.read_bytes()
    try:
        pq.write_table(pq.ParquetFile(path).read().slice(1), path)
        [line] = database.sql(QUERIES["Is every run whole?"]).fetchall()
        assert line[0] == "one" and line[1] == line[2] + line[3] + 1
    finally:
        path.write_bytes(whole)


def test_the_queries_of_other_pages_run(database, home, rows):
    [of_a_day] = blocks((ROOT / "docs/rescan.md").read_text(), "sql")
    once, of_drift = blocks((ROOT / "docs/stream.md").read_text(), "sql")
    assert "2026-01-31" in of_a_day
    day = max(row["scanned_at"] for row in rows if row["verdict"] == "likely_ai").date()
    found = database.sql(of_a_day.replace("2026-01-31", str(day))).fetchall()
    assert len(found) == flagged(row for row in rows if row["scanned_at"].date() == day) > 0

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
    assert {row["run_id"] for row in rows} == {"one", "two"}
    assert len({row["detector_id"] for row in rows}) == len({row["week"] for row in rows}) == 2
    assert {why for *_, why in newly_flagged(rows)} <= {"another picture", "another detector"}
    assert copies([row for row in rows if row["run_id"] == "one"])
