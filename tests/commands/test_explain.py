"""`mdmf explain`: an image, an object, and a row whose image is there, gone, changed or of another detector."""

import datetime
import json
import re
import shutil
import tarfile
from pathlib import Path

import emulators
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import copy_detector, encode, photo
from emulators import Bucket
from google.api_core.exceptions import Forbidden
from outputs import MORNING, scored_row, write_output
from PIL import Image
from scans import read_rows, scan

from mdmf_ops import cli
from mdmf_ops.beam import Run, load
from mdmf_ops.beam.image import Image as ReadImage
from mdmf_ops.beam.runs import find_rows
from mdmf_ops.beam.score import make_row
from mdmf_ops.beam.sources import local_ref
from mdmf_ops.commands import explain as explain_module
from mdmf_ops.detector import Detector, Limits, calibration


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A folder with images `in`, one of them in a shard and one broken, and the output `out` of their scan."""
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "in").mkdir()
    for i in range(3):
        (folder / "in" / f"{i}.jpg").write_bytes(encode(photo(i, 96, 160)))
    (folder / "in" / "half.jpg").write_bytes(encode(photo(1))[:-700])
    with tarfile.open(folder / "in" / "shard.tar", "w") as archive:
        archive.add(folder / "in" / "2.jpg", "member.jpg")
    scan(folder / "in", folder / "out")
    return folder


def rows_of(folder):
    return {row["image_uri"].rpartition("/")[2]: row for row in read_rows(folder / "out")}


@pytest.fixture
def place(scanned, tmp_path):
    """The scanned folder, to change at will: rows name the images of the original."""
    shutil.copytree(scanned / "out", tmp_path / "out")
    kept = {path: path.read_bytes() for path in (scanned / "in").iterdir()}
    yield tmp_path
    for path, content in kept.items():
        path.write_bytes(content)


def explain(capsys, folder, *arguments, status=0):
    """Runs the command with --json; returns what it printed."""
    command = ["explain", *map(str, arguments), "--json", "--device", "cpu", "--save", str(folder / "why")]
    assert cli.main(command) == status, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_an_image_in_a_shard_is_scored_by_its_uri(scanned, tmp_path, capsys):
    found = explain(capsys, tmp_path, f"{scanned}/in/shard.tar#member.jpg")
    row = rows_of(scanned)["shard.tar#member.jpg"]
    assert (found["image_uri"], found["mmd2"]) == (row["image_uri"], pytest.approx(row["mmd2"], abs=1e-6))


@pytest.mark.parametrize("name", ["shard.tar#other.jpg", "none.tar#member.jpg"])
def test_what_is_in_no_shard_is_said_in_a_line(scanned, tmp_path, capsys, name):
    image = f"{scanned}/in/{name}"
    assert cli.main(["explain", image, "--device", "cpu", "--save", str(tmp_path)]) == 1
    assert re.fullmatch(
        rf"mdmf explain: {re.escape(image)}: .*(no 'other.jpg'|No such file).*\n", capsys.readouterr().err
    )


def of_row(folder, row):
    return ("--output", folder / "out", "--row_id", row["row_id"])


def test_a_local_image_is_scored_and_shown(scanned, tmp_path, capsys):
    found = explain(capsys, tmp_path, scanned / "in" / "0.jpg")
    [score] = Detector.load(device="cpu").score([(scanned / "in" / "0.jpg").read_bytes()])
    assert (found["mmd2"], found["p_value"], found["verdict"]) == (score.mmd2, score.p_value, score.verdict.value)
    assert found["reproduced"] == "not_tried"
    assert found["patches"]["count"] == score.evidence.size == 15
    picture = Image.open(found["pictures"]["map"])
    left = np.asarray(picture.convert("RGB"), float)[:96, 25:185]  # centred in a cell of 210 px
    assert np.abs(left - photo(0, 96, 160)).mean() < 10
    assert Path(found["pictures"]["p_value"]).read_text().startswith("<svg")


def test_alpha_moves_the_verdict_and_not_the_score(scanned, tmp_path, capsys):
    strict, lax = (explain(capsys, tmp_path, scanned / "in" / "0.jpg", "--alpha", a) for a in (0.005, 0.9999))
    assert strict["mmd2"] == lax["mmd2"] and strict["score_at_alpha"] > lax["score_at_alpha"]
    assert lax["verdict"] == "likely_ai"


def test_a_row_is_read_and_scored_again(scanned, place, capsys):
    row = rows_of(scanned)["1.jpg"]
    found = explain(capsys, place, *of_row(place, row))
    assert (found["reproduced"], found["image_uri"]) == ("same", row["image_uri"])
    assert found["mmd2"] == pytest.approx(row["mmd2"])
    assert "as the row says" in " ".join(found["notes"])
    assert set(found["pictures"]) == {"map", "p_value"}


def test_an_image_in_a_shard_is_found_again(scanned, place, capsys):
    # The same bytes lie beside it, and so both rows have one id: an output without the other one tells.
    row = rows_of(scanned)["shard.tar#member.jpg"]
    output = place / "shard"
    scan(scanned / "in" / "shard.tar", output)
    found = explain(capsys, place, "--output", output, "--row_id", row["row_id"])
    assert (found["reproduced"], found["image_uri"]) == ("same", row["image_uri"])


def test_an_id_of_several_rows_says_so(scanned, place, capsys):
    row = rows_of(scanned)["2.jpg"]
    assert row["row_id"] == rows_of(scanned)["shard.tar#member.jpg"]["row_id"]
    assert "2 rows have this id" in " ".join(explain(capsys, place, *of_row(place, row))["notes"])


@pytest.mark.parametrize(
    ("harm", "reproduced", "said"),
    [
        (Path.unlink, "gone", "The image is gone"),
        (lambda path: path.write_bytes(encode(photo(50))), "changed", "The image was changed"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "changed", "The image was changed"),
    ],
    ids=["gone", "overwritten", "a byte more"],
)
def test_an_image_that_is_not_the_rows_any_more_is_not_shown(scanned, place, capsys, harm, reproduced, said):
    row = rows_of(scanned)["1.jpg"]
    whole = explain(capsys, place, *of_row(place, row))
    with_image = Image.open(whole["pictures"]["map"]).size
    harm(Path(row["image_uri"]))
    found = explain(capsys, place, *of_row(place, row), status=cli.EXIT_FAILED)
    assert found["reproduced"] == reproduced and said in " ".join(found["words"])
    assert found["p_value"] == whole["p_value"] and found["patches"] == whole["patches"], "what the row holds stands"
    alone = Image.open(found["pictures"]["map"])
    assert alone.size[0] != with_image[0]
    assert len(set(alone.crop((130, 0, 290, 96)).get_flattened_data())) < 60, "colours of a map, and no photograph"


def test_of_an_image_that_was_a_message_the_map_is_shown_and_no_file_is_looked_for(
    scanned, tmp_path, capsys, monkeypatch
):
    [row] = [row for row in full_rows(scanned / "out") if row["image_uri"].endswith("1.jpg")]
    shutil.copy(row["image_uri"], tmp_path / "message:1")  # another's file, though of that picture
    monkeypatch.chdir(tmp_path)
    write_output(tmp_path / "out", [row | {"image_uri": "message:1"}], "streamed")
    found = explain(capsys, tmp_path, *of_row(tmp_path, row), status=cli.EXIT_FAILED)
    assert found["reproduced"] == "gone" and "the message was the image itself" in " ".join(found["words"])
    assert found["pictures"]["map"]


def full_rows(output):
    """Every row of an output of one run, as its file holds them."""
    [path] = output.glob("scan_date=*/*.parquet")
    return pq.read_table(path, partitioning=None).to_pylist()


def forge(output, name, make):
    """Puts another value into a column of every scored row."""
    [path] = output.glob("scan_date=*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    place = table.schema.get_field_index(name)
    values = [value if value is None else make(value) for value in table[name].to_pylist()]
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mmd2", lambda score: score + 0.01),
        ("p_value", lambda p_value: 0.45 if p_value != 0.45 else 0.5),
        ("verdict", lambda verdict: "uncertain" if verdict == "likely_ai" else "likely_ai"),
        ("patch_evidence", lambda evidence: evidence[::-1]),
        ("tiles", lambda tiles: [tile | {"left_px": 1} for tile in tiles]),
        ("width_px", lambda width_px: width_px + 32),
    ],
)
def test_a_row_that_does_not_reproduce_says_in_what(scanned, place, capsys, name, make):
    if name == "tiles":
        forge(place / "out", "width_px", lambda width_px: width_px + 1)  # else they would not fit: a damaged row
    forge(place / "out", name, make)
    found = explain(capsys, place, *of_row(place, rows_of(scanned)["1.jpg"]), status=cli.EXIT_FAILED)
    assert found["reproduced"] == "different"
    assert re.search(rf"does not reproduce: .*\b{name} (is|lie) ", " ".join(found["words"]))


def test_a_machine_too_slow_to_score_the_image_again_says_nothing_against_the_row(scanned, place, monkeypatch, capsys):
    load = Detector.load
    slow = Limits(max_decode_s=1e-4)
    monkeypatch.setattr(Detector, "load", lambda *folder, **options: load(*folder, **options, limits=slow))
    found = explain(capsys, place, *of_row(place, rows_of(scanned)["1.jpg"]), status=cli.EXIT_FAILED)
    assert found["reproduced"] == "unreadable"
    assert re.search("Not scored again here: timeout: .* says nothing of the row", " ".join(found["words"]))


def test_a_row_without_its_map_is_said_to_be_damaged_in_a_line(scanned, place, capsys):
    forge(place / "out", "patch_evidence", lambda _evidence: None)
    asked = of_row(place, rows_of(scanned)["1.jpg"])
    assert cli.main(["explain", *map(str, asked), "--device", "cpu"]) == cli.EXIT_USAGE
    assert re.fullmatch(r"mdmf explain: .*1\.jpg: no map: .*\n", capsys.readouterr().err)


def test_a_row_that_was_scored_with_wider_limits_is_shown_without_its_image(tmp_path, capsys):
    long = tmp_path / "long.png"
    long.write_bytes(encode(photo(1, 64, 30_008), "PNG"))
    detector = Detector.load(device="cpu", limits=Limits(max_side_px=40_000))
    [score] = detector.score([long.read_bytes()])
    image = ReadImage(local_ref(str(long)), long.read_bytes())
    row = make_row(image, score, detector, Run.start(".", "r"))
    write_output(tmp_path / "out", [row])
    found = explain(capsys, tmp_path, *of_row(tmp_path, row), status=cli.EXIT_FAILED)
    assert (found["reproduced"], found["verdict"]) == ("unreadable", score.verdict.value)
    assert "at most 30000 px a side" in " ".join(found["notes"]) and set(found["pictures"]) == {"map", "p_value"}


@pytest.mark.parametrize("lost", ["2.jpg", "shard.tar"])
def test_of_copies_one_that_can_still_be_read_is_shown(scanned, place, capsys, lost):
    copies = {"2.jpg": "shard.tar#member.jpg", "shard.tar": "2.jpg"}
    asked = of_row(place, rows_of(scanned)["2.jpg"])
    (scanned / "in" / lost).unlink()
    found = explain(capsys, place, *asked)
    assert (found["reproduced"], found["image_uri"]) == ("same", f"{scanned}/in/{copies[lost]}")
    (scanned / "in" / copies[lost].partition("#")[0]).unlink()
    assert explain(capsys, place, *asked, status=cli.EXIT_FAILED)["reproduced"] == "gone"


@pytest.mark.parametrize("failed_later", [False, True])
def test_the_row_of_a_run_is_told_from_another_runs(scanned, tmp_path, capsys, failed_later):
    [row] = [row for row in full_rows(scanned / "out") if row["image_uri"].endswith("1.jpg")]
    strict = {"alpha": row["p_value"] / 2, "verdict": "uncertain"}
    write_output(tmp_path / "out", [row | {"alpha": row["p_value"] * 2, "verdict": "likely_ai"}], "lax")
    write_output(tmp_path / "out", [row | strict], "strict", MORNING + datetime.timedelta(days=1))
    if failed_later:
        failed = row | {"status": "failed", "verdict": None, "error_code": "timeout"}
        write_output(tmp_path / "out", [failed], "later", MORNING + datetime.timedelta(days=2))
    asked = of_row(tmp_path, row)
    for run_id, verdict in (("lax", "likely_ai"), ("strict", "uncertain")):
        found = explain(capsys, tmp_path, *asked, "--run_id", run_id)
        assert (found["run_id"], found["verdict"], found["reproduced"]) == (run_id, verdict, "same")
        assert "rows have this id" not in " ".join(found["notes"])
    newest = explain(capsys, tmp_path, *asked)
    assert newest["run_id"] == "strict" and "1.jpg in run strict" in " ".join(newest["notes"])


def test_a_failed_row_is_explained_without_pictures(scanned, place, capsys):
    found = explain(capsys, place, *of_row(place, rows_of(scanned)["half.jpg"]))
    assert found["words"][0].startswith("not scored: truncated")
    assert found["pictures"] == {} and not (place / "why").exists()


def test_the_rows_own_detector_is_taken_from_its_run(scanned, tmp_path, capsys):
    detector_id = copy_detector(tmp_path / "other", "other")
    scan(scanned / "in" / "0.jpg", tmp_path / "out", assets=str(tmp_path / "other"))
    [row] = read_rows(tmp_path / "out")
    found = explain(capsys, tmp_path, *of_row(tmp_path, row))
    assert (found["reproduced"], found["detector_id"]) == ("same", detector_id)
    (tmp_path / "other").rename(tmp_path / "moved")
    absent = explain(capsys, tmp_path, *of_row(tmp_path, row))
    assert absent["reproduced"] == "not_tried" and "calibration_scores" not in absent
    assert "map" in absent["pictures"] and "p_value" not in absent["pictures"]
    assert f"name the folder of {detector_id} with --assets" in " ".join(absent["notes"])
    named = explain(capsys, tmp_path, *of_row(tmp_path, row), "--assets", tmp_path / "moved")
    assert named["reproduced"] == "same"


def test_in_a_bucket_exactly_the_rows_generation_is_read(tmp_path, capsys):
    with emulators.fake_gcs_server() as url, emulators.environment(url):
        bucket = Bucket()
        generation = bucket.put("in/a.jpg", encode(photo(1, 96, 160)))
        uri = bucket.uri("in/a.jpg")
        found = explain(capsys, tmp_path, uri)
        assert (found["image_uri"], found["image_generation"]) == (uri, generation)
        scan(bucket.uri("in/"), tmp_path / "out")
        asked = of_row(tmp_path, found)
        assert explain(capsys, tmp_path, *asked)["reproduced"] == "same"
        assert bucket.put("in/a.jpg", encode(photo(1, 96, 160))) != generation
        assert explain(capsys, tmp_path, *asked)["reproduced"] == "same", "as a move to another storage class leaves it"
        bucket.put("in/a.jpg", encode(photo(2, 96, 160)))
        changed = explain(capsys, tmp_path, *asked, status=cli.EXIT_FAILED)
        assert changed["reproduced"] == "changed" and f"generation {generation}" in " ".join(changed["words"])
        bucket.delete("in/a.jpg")
        assert explain(capsys, tmp_path, *asked, status=cli.EXIT_FAILED)["reproduced"] == "gone"


def test_people_read_it_in_words_and_find_the_pictures(scanned, tmp_path, capsys):
    assert cli.main(["explain", str(scanned / "in" / "0.jpg"), "--save", str(tmp_path / "why"), "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert re.search(r"p 0\.\d+", told.out) and "A verdict is evidence, not an action" in told.out
    for path in re.findall(r"^(?:map|p_value) +(\S+)$", told.out, re.MULTILINE):
        assert Path(path).is_file()
    assert len(list((tmp_path / "why").iterdir())) == 2
    assert told.err == "", "quiet where the error output is no terminal"


def test_pictures_of_two_images_of_one_name_lie_beside_each_other_whatever_the_name(tmp_path, capsys):
    for i, folder in enumerate(("one", "two")):
        path = tmp_path / folder / "..\x1b[31m $(rm) é.jpg"
        path.parent.mkdir()
        path.write_bytes(encode(photo(i)))
        explain(capsys, tmp_path, path)
    pictures = [path.name for path in (tmp_path / "why").iterdir()]
    assert len(pictures) == 4
    assert all(re.fullmatch(r"[\w-]+-[0-9a-f]{8}-(map\.png|p_value\.svg)", name, re.ASCII) for name in pictures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either an IMAGE"),
        (["a.jpg", "--row_id", "x"], "name either an IMAGE"),
        (["--row_id", "x"], "name either an IMAGE"),
        (["--output", "out", "--row_id", "x", "--alpha", "0.5"], "--alpha: a row has its own"),
        (["in/0.jpg", "--run_id", "run"], "--run_id: of a row"),
        (["missing.jpg"], "missing.jpg: nothing there"),
        (["in"], "more than one image"),
        (["in/0.jpg", "--alpha", "1e-9"], "alpha=1e-09"),
        (["in/0.jpg", "--assets", "nowhere"], "nowhere: no readable manifest.json"),
        (["--output", "out", "--row_id", "beef"], "--row_id beef: no committed run"),
        (["--output", "out", "--row_id", "beef", "--run_id", "run"], "--row_id beef: no row of run run has it"),
        (["--output", "out", "--row_id", "beef", "--run_id", "noon"], "--run_id noon: no such committed run"),
        (["s3://a/b.jpg"], "local paths and gs://"),
    ],
)
def test_what_cannot_be_carried_out_says_why_in_a_line(scanned, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(scanned)
    assert cli.main(["explain", *arguments]) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mdmf explain: ") and message in line


def test_an_image_that_cannot_be_scored_says_why(scanned, capsys):
    assert cli.main(["explain", str(scanned / "in" / "half.jpg")]) == cli.EXIT_FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert "truncated" in line and "half.jpg" in line


def test_an_image_of_a_strangers_name_that_cannot_be_scored_says_why_in_plain_text(tmp_path, capsys):
    path = tmp_path / "a\x1b]0;mine\x07\n.jpg"
    path.write_bytes(b"no image")
    assert cli.main(["explain", str(path), "--device", "cpu"]) == cli.EXIT_FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert line.isprintable() and "unsupported_format" in line


@pytest.mark.parametrize(("precision", "reproduced"), [("float32", "different"), ("bfloat16", "same")])
def test_a_row_of_bfloat16_may_differ_by_the_tolerance_of_that_precision_and_no_more(
    scanned, tmp_path, capsys, precision, reproduced
):
    [row] = [row for row in full_rows(scanned / "out") if row["image_uri"].endswith("1.jpg")]
    detector = Detector.load(device="cpu")
    scores = np.concatenate([stratum.scores for stratum in detector.calibration.strata])
    allowed = 0.05 * (np.quantile(scores, 0.75) - np.quantile(scores, 0.25))  # as docs/gpu.md says
    for share, expected in ((0.9, reproduced), (1.1, "different")):
        moved = share * allowed
        mmd2, evidence = row["mmd2"] + moved, [value + moved for value in row["patch_evidence"]]
        p_value = detector.calibration.stratum(len(evidence)).p_value(mmd2)
        said = {"mmd2": mmd2, "p_value": p_value, "verdict": calibration.verdict(p_value, 0.01).value}
        forged = row | said | {"patch_evidence": evidence, "precision": precision, "device": "cuda T4"}
        write_output(tmp_path / f"{share}/out", [forged])
        status = cli.EXIT_OK if expected == "same" else cli.EXIT_FAILED
        found = explain(capsys, tmp_path, *of_row(tmp_path / f"{share}", row), status=status)
        assert found["reproduced"] == expected
        assert "mmd2 is" in " ".join(found["notes"]) or expected == "same"


def test_of_an_image_that_everybody_uses_one_map_is_read_and_not_every_copy_is_looked_for(
    tmp_path, monkeypatch, capsys
):
    copies = [scored_row(f"/nowhere/{i:03}", 0.5, seed=1, width_px=256 + i) for i in range(300)]
    write_output(tmp_path / "out", copies)
    maps, looked_for, real = 0, [], explain_module.reread
    monkeypatch.setattr(explain_module, "reread", lambda row, limits: looked_for.append(row) or real(row, limits))

    def counted(*arguments):
        nonlocal maps
        for row in find_rows(*arguments):
            maps += "patch_evidence" in row
            yield row

    monkeypatch.setattr(explain_module, "find_rows", counted)
    found = explain(capsys, tmp_path, *of_row(tmp_path, copies[0]), status=cli.EXIT_FAILED)
    assert (found["reproduced"], maps, len(looked_for)) == ("gone", 1, 100)
    assert "300 rows have this id" in " ".join(found["notes"])


def test_a_detector_in_a_bucket_that_may_not_be_read_costs_no_more_than_the_second_score(
    scanned, tmp_path, monkeypatch, capsys
):
    [row] = [row for row in full_rows(scanned / "out") if row["image_uri"].endswith("1.jpg")]
    write_output(tmp_path / "out", [row], assets="gs://detectors/micro")

    def forbidden(_path):
        raise Forbidden("no storage.objects.get access")

    monkeypatch.setattr(load, "open_file", forbidden)
    found = explain(capsys, tmp_path, *of_row(tmp_path, row))
    assert found["reproduced"] == "not_tried" and set(found["pictures"]) == {"map"}
    assert "no storage.objects.get access; name the folder of" in " ".join(found["notes"])
