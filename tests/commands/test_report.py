"""`mdmf report` as a command: which rows, which images, and what it refuses."""

import base64
import datetime
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import emulators
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, photo
from emulators import Bucket
from outputs import MORNING, failed_row, scored_row, write_output
from PIL import Image
from scans import scan

from mdmf_ops import cli
from mdmf_ops.report.thumbnails import MAX_BYTES, SIDE_PX, thumbnail

EVENING = MORNING + datetime.timedelta(hours=12)


def report(capsys, output, *arguments, page):
    """Runs the command; returns its figures and the page's data."""
    assert cli.main(["report", str(output), "--page", str(page), "--json", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    [island] = re.findall(r'id="data">(.+?)</script>', page.read_text(), re.DOTALL)
    return figures, json.loads(island)


@pytest.fixture
def output(tmp_path):
    """/a and /b in the morning, /b again and /c in the evening, and a failed /d."""
    write_output(tmp_path / "out", [scored_row("/in/a", 0.5, 1), scored_row("/in/b", 0.5, 2)], "morning")
    rows = [scored_row("/in/b", 0.001, 3), scored_row("/in/c", 0.05, 4), failed_row("/in/d")]
    return write_output(tmp_path / "out", rows, "evening", EVENING)


def test_the_newest_row_of_every_image_is_reported(output, tmp_path, capsys):
    figures, data = report(capsys, output, page=tmp_path / "r.html")
    assert {k: figures[k] for k in ("images", "likely_ai", "uncertain", "likely_real", "failed")} == {
        **{"images": 4, "likely_ai": 1, "uncertain": 1, "likely_real": 1, "failed": 1}
    }
    assert data["list"]["uri"] == ["/in/b", "/in/c", "/in/a", "/in/d"]
    assert data["gallery"]["cards"][0]["facts"]["scored"].endswith("in run evening")
    assert [run["run_id"] for run in figures["runs"]] == ["evening", "morning"]


def test_a_row_of_a_time_beyond_the_calendar_is_reported_with_the_others(output, tmp_path, capsys):
    path = next(Path(output).glob("scan_date=*/evening-*.parquet"))
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index("scanned_at")
    times = pa.array([2**63 - 1] * table.num_rows, pa.int64()).cast(table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), times), path)
    figures, data = report(capsys, output, page=tmp_path / "r.html")
    assert figures["images"] == 4
    assert data["gallery"]["cards"][0]["facts"]["scored"] == "9999-12-31 23:59:59 UTC in run evening"


def test_one_run_can_be_reported_alone(output, tmp_path, capsys):
    figures, data = report(capsys, output, "--run_id", "morning", page=tmp_path / "r.html")
    assert (figures["images"], figures["likely_real"]) == (2, 2)
    assert data["list"]["uri"] == ["/in/a", "/in/b"]


def test_of_a_run_every_row_is_reported_and_of_an_image_the_newest(tmp_path, capsys):
    # As a window of a stream has them: an object uploaded again, with the same bytes or others, at one moment even.
    rows = [scored_row("gs://b/a", p, 1, image_generation=g) for g, p in ((1, 0.001), (2, 0.5))]
    rows += [scored_row("gs://b/a", 0.05, 2, image_generation=3), failed_row("gs://b/c")]
    output = write_output(tmp_path / "out", rows, "window")
    figures, data = report(capsys, output, "--run_id", "window", page=tmp_path / "r.html")
    assert (figures["images"], figures["likely_ai"], figures["likely_real"], figures["failed"]) == (4, 1, 1, 1)
    assert data["list"]["uri"] == ["gs://b/a"] * 3 + ["gs://b/c"] and data["list"]["card"] == [0, 1, 2, -1]
    assert [card["facts"]["generation"] for card in data["gallery"]["cards"]] == ["1", "3", "2"]
    assert report(capsys, output, page=tmp_path / "r.html")[0]["images"] == 2


def test_a_list_that_is_too_short_for_all_says_so_and_counts_them_all(output, tmp_path, capsys):
    figures, data = report(capsys, output, "--limit", "2", page=tmp_path / "r.html")
    assert figures["images"] == data["images"] == 4
    assert data["list"]["uri"] == ["/in/b", "/in/c"]


@pytest.mark.parametrize(("arguments", "images"), [((), 4), (("--run_id", "evening"), 3)])
def test_columns_that_older_files_lack_are_unknown(output, tmp_path, capsys, arguments, images):
    for path in (tmp_path / "out").glob("scan_date=*/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.drop_columns(["declared_source", "declared_by"]), path)
    figures, data = report(capsys, output, *arguments, page=tmp_path / "r.html")
    assert figures["images"] == images
    assert [card["declared"] for card in data["gallery"]["cards"]] == [{}] * (images - 1)


def test_a_page_is_replaced_whole_and_nothing_else_is_left(output, tmp_path, capsys):
    page = tmp_path / "pages" / "r.html"
    report(capsys, output, page=page)
    report(capsys, output, page=page)
    assert [path.name for path in page.parent.iterdir()] == ["r.html"]


def test_a_page_goes_where_a_link_leads(output, tmp_path, capsys):
    (tmp_path / "site").mkdir()
    link = tmp_path / "r.html"
    link.symlink_to("site/public.html")
    for _ in range(2):
        report(capsys, output, page=link)
        assert link.is_symlink() and [path.name for path in (tmp_path / "site").iterdir()] == ["public.html"]


def test_a_page_goes_through_a_pipe_and_leaves_it_one(output, tmp_path):
    pipe = tmp_path / "pipe"  # as /dev/stdout may be, and no device of this machine is at stake
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        try:
            assert cli.main(["report", output, "--page", str(pipe)]) == 0
            assert pipe.is_fifo()
            assert reader.communicate(timeout=60)[0].rstrip().endswith(b"</html>")
        finally:
            reader.kill()


def test_an_output_whose_name_is_no_text_has_a_page_too(output, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    Path(output).rename(odd)
    figures, _ = report(capsys, odd, page=tmp_path / "r.html")
    assert figures["images"] == 4 and "/caf </title>" in (tmp_path / "r.html").read_text()


def test_people_are_told_counts_warnings_and_where_the_page_is(tmp_path, capsys):
    rows = [scored_row(f"/in/\x1b[31m{i}/a", 0.001, seed=i) for i in range(25)]
    output = write_output(tmp_path / "out", rows)
    assert cli.main(["report", output, "--page", str(tmp_path / "r.html")]) == 0
    told = capsys.readouterr()
    assert "likely_ai 25" in told.out and "warning: format JPEG: 100.0% of 25 flagged" in told.out
    assert "warning: all images: 100.0% of 25 flagged" in told.out
    assert "r.html" in told.out.splitlines()[-1]
    assert "\x1b[31m" not in told.out
    assert told.err == "", "quiet where the error output is no terminal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no committed run there"),
        (["out", "--run_id", "noon"], "no such committed run; see mdmf runs list"),
        (["out", "--run_id", ""], "no such committed run; see mdmf runs list"),  # of a shell's variable that is not set
        (["out", "--gallery", "0"], "--gallery 0: from 1 to 100"),
        (["out", "--limit", "1000000"], "--limit 1000000: from 1 to 50,000"),
        (["s3://out"], "local paths and gs://"),
    ],
)
def test_what_cannot_be_carried_out_says_why_in_a_line(output, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mdmf report: ") and message in line


def test_status_1_is_a_page_that_cannot_be_written_and_a_damaged_file(output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main(["report", output, "--page", "file/r.html"]) == cli.EXIT_FAILED
    copied = shutil.copytree(output, "damaged")
    damaged = next(Path(copied).glob("scan_date=*/*.parquet"))
    damaged.write_bytes(b"x")
    run_id = damaged.name.partition("-")[0]
    for arguments in ((), ("--run_id", run_id)):
        assert cli.main(["report", str(copied), *arguments]) == cli.EXIT_FAILED
    page, *rows = capsys.readouterr().err.splitlines()
    assert page.startswith("mdmf report: ") and "File exists: 'file'" in page
    assert [row.startswith("mdmf report: ") and f"{damaged}: damaged" in row for row in rows] == [True, True]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Three images, scanned."""
    folder = tmp_path_factory.mktemp("scanned")
    for i in range(3):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{i}.jpg").write_bytes(encode(photo(i, 300, 900)))
    scan(folder / "in", folder / "out")
    return folder


def cards(data):
    return {card["uri"].rpartition("/")[2]: card for card in data["gallery"]["cards"]}


def test_no_image_is_in_the_page_unless_it_is_asked_for(scanned, tmp_path, capsys):
    _figures, data = report(capsys, scanned / "out", page=tmp_path / "r.html")
    assert "data:image/jpeg" not in (tmp_path / "r.html").read_text()
    assert [len(card["tiles"]) > 0 for card in cards(data).values()] == [True] * 3


def test_thumbnails_are_small_copies_of_the_very_images(scanned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mdmf_ops.images.decode._PLUGINS", {})  # what a stranger sent is not opened in this process
    (scanned / "in" / "0.jpg").unlink()
    (scanned / "in" / "1.jpg").write_bytes(encode(photo(77, 300, 900)))
    _figures, data = report(capsys, scanned / "out", "--thumbnails", page=tmp_path / "r.html")
    gone, changed, same = (cards(data)[f"{i}.jpg"] for i in range(3))
    assert gone["thumbnail"] == changed["thumbnail"] == ""
    assert "not_found" in gone["no_thumbnail"] and "changed" in changed["no_thumbnail"]
    small = Image.open(io.BytesIO(base64.b64decode(same["thumbnail"].partition(",")[2])))
    assert max(small.size) == SIDE_PX
    original = Image.fromarray(photo(2, 300, 900)).resize(small.size)
    assert np.abs(np.asarray(small, float) - np.asarray(original, float)).mean() < 6


@pytest.mark.parametrize("size", [(420, 420), (3000, 64), (64, 3000)])
def test_a_thumbnail_is_bounded_even_of_noise(size):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = base64.b64decode(thumbnail(Image.fromarray(noise)).partition(",")[2])
    assert len(content) <= MAX_BYTES
    assert max(Image.open(io.BytesIO(content)).size) <= SIDE_PX


def test_an_output_in_a_bucket_is_reported_too(scanned, tmp_path, capsys):
    with emulators.fake_gcs_server() as url, emulators.environment(url):
        bucket = Bucket()
        for path in (scanned / "out").rglob("*"):
            if path.is_file():
                bucket.put(f"scores/{path.relative_to(scanned / 'out')}", path.read_bytes())
        figures, data = report(capsys, bucket.uri("scores"), page=tmp_path / "r.html")
    assert (figures["output"], figures["scored"]) == ("gs://mdmf-test/scores", 3)
    assert data["gallery"]["cards"][0]["tiles"]
