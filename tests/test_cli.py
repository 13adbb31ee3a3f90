"""The command as a person runs it: in its own process, on every core.

What it says before anything runs, it says in this process: to start one takes longer than all the rest.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, tiny, write_images

from mdmf_ops import cli


def mdmf(*arguments):
    """Runs the command and returns the finished process."""
    command = [sys.executable, "-m", "mdmf_ops", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def said(capsys):
    """Runs the command in this process: `said(*arguments)` gives its status, and what it printed to both streams."""

    def run(*arguments):
        try:
            status = cli.main(list(map(str, arguments)))
        except SystemExit as ended:  # argparse's own
            status = ended.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), good=24, broken=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_scan_writes_one_row_for_each_image(images, tmp_path, workers):
    done = mdmf("scan", images, "--output", tmp_path / "out", "--workers", workers, "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["counts"]["status"] == {"failed": 3, "scored": 24}
    [(rows, uris)] = duckdb.sql(
        f"select count(*), count(distinct image_uri) from '{tmp_path}/out/**/*.parquet'"
    ).fetchall()
    assert (rows, uris) == (27, 27)
    assert done.stderr == ""


def test_scan_shows_each_image_of_a_small_run_and_where_the_parquet_is(images, tmp_path, monkeypatch, said):
    monkeypatch.chdir(images)
    status, out, errors = said("scan", "day0", "broken", "--output", tmp_path / "out", "--workers", 1)
    assert status == 0, errors
    assert "day0/image00000.jpeg" in out
    assert "failed: " in out
    assert re.search(r"^device +(cpu|cuda .+) 8$", out, re.MULTILINE)
    assert re.search(r"^precision +float32 8$", out, re.MULTILINE)
    assert str(tmp_path / "out") in out


def test_dry_run_reads_and_writes_nothing(images, tmp_path, said):
    status, out, errors = said("scan", images, "--output", tmp_path / "out", "--dry_run", "--json")
    assert status == 0, errors
    plan = json.loads(out)
    assert plan["images"] == 27
    assert plan["bytes"] == sum(path.stat().st_size for path in images.rglob("*") if path.is_file())
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_a_list_would_have_read(images, tmp_path, capsys):
    files = sorted(path for path in images.rglob("*.png"))
    with tarfile.open(tmp_path / "shard.TAR", "w") as shard:
        for file in files[:3]:
            shard.add(file, file.name)
    wanted = [files[0], tmp_path / "shard.TAR", f"{tmp_path}/shard.TAR#{files[1].name}", tmp_path / "gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, wanted)))

    def plan(*more):
        command = ["scan", "--input_list", tmp_path / "list.txt", "--output", tmp_path / "out", "--dry_run", "--json"]
        assert cli.main([str(word) for word in (*command, *more)]) == 0
        return json.loads(capsys.readouterr().out)

    sizes = [file.stat().st_size for file in (files[0], *files[:3])]
    found = plan()
    assert (found["images"], found["bytes"], found["of_unknown_size"]) == (5, sum(sizes), 1)
    limit_bytes = max(sizes)
    found = plan("--min_bytes", limit_bytes)
    assert found["images"] - found["of_unknown_size"] == sizes.count(limit_bytes)
    assert found["bytes"] == limit_bytes * sizes.count(limit_bytes)


def test_dry_run_says_what_would_be_skipped(images, tmp_path, capsys):
    photos, output = shutil.copytree(images / "day0", tmp_path / "photos"), tmp_path / "out"
    (photos / "dangling.png").symlink_to("nowhere")

    def scan(*more):
        command = ["scan", photos, "--output", output, "--workers", 1, "--skip_unchanged", output, "--json", *more]
        assert cli.main([str(word) for word in command]) == 0
        return json.loads(capsys.readouterr().out)

    planned = scan("--dry_run")
    assert (planned["images"], planned["skipped"]) == (9, 0)
    assert scan("--run_id", "r1")["inputs"] == 9
    new = photos / "new.png"
    new.write_bytes(tiny(1))
    planned = scan("--dry_run")
    # The link is tried again each night.
    assert (planned["images"], planned["skipped"], planned["bytes"]) == (2, 8, new.stat().st_size)
    assert scan("--dry_run", "--run_id", "r1")["skipped"] == 0
    done = scan()
    assert (sum(file["rows"] for file in done["files"]), done["skipped"]) == (2, 8)


def test_lists_and_filters_choose_the_images(images, tmp_path, capsys):
    wanted = [str(path) for path in images.rglob("*.png")]
    (tmp_path / "list.csv").write_text("\n".join(["path", *wanted]))

    def planned(*arguments):
        assert cli.main(["scan", *map(str, arguments), "--output", str(tmp_path / "out"), "--dry_run", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["images"]

    assert planned("--input_list", tmp_path / "list.csv", "--list_column", "path") == len(wanted)
    assert planned(images, "--suffix", ".PNG", "--suffix", ".bmp", "--min_bytes", 1) > len(wanted)
    assert planned(images, "--changed_since", "2999-01-01") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out"], "no input: name at least one"),
        (["s3://bucket/a", "--output", "out"], "s3://bucket/a: local paths and gs:// are read"),
        ([".", "--output", "s3://bucket/out"], "s3://bucket/out: local paths and gs:// are read"),
        ([".", "--output", "file:///out"], "file:///out: the folder of a dataset is a local path, without file://"),
        ([".", "--output", "gs://"], "gs://: the folder of a dataset"),
        ([".", "--output", "out", "--skip_unchanged", "day0"], "no committed run there"),
        (["--input_list", "missing.txt", "--output", "out"], "missing.txt"),
    ],
)
def test_sources_that_cannot_be_read_are_refused_in_one_line(images, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(images)
    assert cli.main(["scan", *arguments]) == cli.EXIT_USAGE
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_a_pipe_is_no_list_since_the_workers_cannot_read_it_again(images, tmp_path, capsys):
    """What one look took out of it would be lost without a word."""
    lines = "".join(f"{path}\n" for path in images.rglob("*.png"))
    pipe, end = os.pipe()
    os.write(end, lines.encode())
    os.close(end)
    arguments = ["--input_list", f"/dev/fd/{pipe}", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(["scan", *arguments]) == cli.EXIT_USAGE
    [error] = capsys.readouterr().err.splitlines()
    assert f"/dev/fd/{pipe}: not a file: a folder, or a pipe or device, which can be read only once" in error
    with open(pipe) as file:
        assert file.read() == lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "way"),
    [("source", "say file:///{}/caf%E9"), ("--output", "rename it"), ("--input_list", "say file:///{}/caf%E9")],
)
def test_a_name_that_is_not_utf8_is_refused_with_the_way_to_say_it(tmp_path, capsys, place, way):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    Path(name).mkdir()
    Path(name, "a.png").write_bytes(tiny(1))
    arguments = [name, "--output", f"{tmp_path}/out"] if place == "source" else [str(tmp_path), place, name]
    assert cli.main(["scan", "--output", f"{tmp_path}/out", *arguments, "--workers", "1"]) == cli.EXIT_USAGE
    [error] = capsys.readouterr().err.splitlines()
    assert f"the name is not UTF-8; {way.format(str(tmp_path)[1:])}" in error
    command = ["scan", f"file://{tmp_path}/caf%E9", "--output", f"{tmp_path}/out", "--workers", "1"]
    assert place != "source" or cli.main(command) == 0  # as it was told


def test_an_earlier_output_whose_manifest_is_damaged_is_said_in_a_line(images, tmp_path, capsys):
    (tmp_path / "scores/_runs").mkdir(parents=True)
    (tmp_path / "scores/_runs/monday.json").write_text("{")
    arguments = [str(images), "--output", str(tmp_path / "out"), "--skip_unchanged", str(tmp_path / "scores")]
    assert cli.main(["scan", *arguments]) == cli.EXIT_USAGE
    [error] = capsys.readouterr().err.splitlines()
    assert "monday.json: not a manifest" in error


def test_verify_of_no_run_is_no_success(tmp_path, capsys):
    assert cli.main(["runs", "verify", str(tmp_path / "nowhere")]) == cli.EXIT_USAGE
    told = capsys.readouterr()
    assert "nowhere: no committed run there" in told.err and not told.out


def test_too_many_failures_fail_the_run_in_one_line(images, tmp_path):
    done = mdmf("scan", images, "--output", tmp_path / "out", "--workers", 1, "--max_failed_fraction", 0.1)
    assert done.returncode == 1
    assert "3 of 27 images failed, more than --max_failed_fraction=0.1" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(Path(tmp_path).glob("out/_runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg", "--output", "out"], "missing.jpg: nothing there"),
        (["."], "no --output: name the folder"),
        ([".", "--output", "out", "--alpha", "1e-9"], "alpha=1e-09"),
        ([".", "--output", "out", "--run_id", "a/b"], "run id 'a/b'"),
        ([".", "--output", "out", "--assets", "nowhere"], "nowhere: no readable manifest.json"),
        ([".", "--output", "out", "--workers", "-3"], "--workers -3"),
        ([".", "--output", "out", "--direct_num_workers=3"], "--direct_num_workers: mdmf scan starts"),
        ([".", "--output", "out", "--direct_running_mode", "multi_threading"], "--workers N says how many"),
        ([".", "--output", "out", "--skip_unchanged", "file:///scores"], "file:///scores: the folder of a dataset"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(images, monkeypatch, said, arguments, message):
    monkeypatch.chdir(images)
    status, out, errors = said("scan", *arguments)
    assert (status, out) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (images / "out").exists()


@pytest.mark.parametrize(
    "verb",
    [
        *([], ["scan"], ["latest"], ["report"], ["explain"], ["runs"], ["schema"], ["assets"], ["completion"]),
        *(["train"], ["calibrate"], ["evaluate"]),
    ],
)
def test_help_teaches(verb, monkeypatch, said):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, errors = said(*verb, "--help")
    assert (status, errors) == (0, "")
    assert "evidence, not an action" in out
    if not verb:
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.jpg", "--output", "out"], "--input: mdmf scan names its sources without it"),
        (["a.jpg", "--input=b.jpg", "--output", "out"], "--input: mdmf scan names its sources without it"),
        (["a.jpg", "--output", "out", "b.jpg"], "out of place: b.jpg;"),
        (["a.jpg", "--output", "out", "--max_failed", "0"], "out of place: --max_failed 0;"),
        (["a.jpg", "--output", "out", "--sufix=.jpg", "--streaming"], "out of place: --sufix=.jpg;"),
        (
            ["a.jpg", "--output", "out", "--runner=FlinkRunner", "--of_its_job_server=1", "b.jpg"],
            "out of place: b.jpg;",
        ),
        (
            ["a.jpg", "--output", "out", "--runner=FnApiRunner", "--of_its_own=1", "--max_failed_fration=0.0"],
            "out of place: --max_failed_fration=0.0;",
        ),
    ],
)
def test_what_neither_scan_nor_beam_knows_is_refused_and_no_source_is_lost(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["scan", *arguments])
    assert ended.value.code == cli.EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        *(("--num_shards", value, f"{value} is not a whole number from 1 on") for value in ("0", "-1", "some")),
        *(("--sample", value, f"{value} is not a fraction from 0 to 1") for value in ("5%", "2", "nan")),
    ],
)
def test_a_number_that_an_option_cannot_have_is_refused_before_anything_runs(images, option, value, why, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["scan", str(images), "--output", "out", option, value])
    assert ended.value.code == cli.EXIT_USAGE
    assert capsys.readouterr().err.endswith(f"argument {option}: {why}\n")


def test_flags_that_beam_knows_are_passed_on(images, tmp_path, capsys):
    flags = ["--output", str(tmp_path / "out"), "--experiments=none", "--job_name", "night", "--dry_run", "--json"]
    assert cli.main(["scan", str(images), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 27


@pytest.mark.parametrize("words", [["runs", "verify", "--js"], ["assets", "--js", "list"], ["assets", "list", "--js"]])
def test_no_option_is_known_by_the_start_of_its_name(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, *([str(tmp_path)] * (words[0] == "runs"))])
    assert ended.value.code == cli.EXIT_USAGE
    assert "--js" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["report", "scores", "--page", "file:///r.html"],
        ["train", "--real", "a", "--fake", "b", "--output", "gs://bucket/d"],
        ["train", "--real", "a", "file:///b", "--fake", "c", "--output", "d"],
        ["assets", "verify", "file:///d"],
    ],
)
def test_a_uri_is_no_local_path(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert "a local path is expected, not a URI" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("verb", "starts_anew"), [("scan", True), ("latest", False)])
def test_only_a_scan_says_how_it_starts_anew_when_it_is_interrupted(verb, starts_anew, monkeypatch, capsys):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"mdmf_ops.commands.{verb}.run", interrupted)
    assert cli.main([verb, "."]) == cli.EXIT_FAILED
    more = "; the same command starts it anew" * starts_anew
    assert capsys.readouterr().err == f"mdmf {verb}: interrupted{more}\n"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_cost_a_scan_nothing(images, tmp_path, closed):
    one = next(images.rglob("*.png"))
    command = f"{sys.executable} -m mdmf_ops scan {one} --output {tmp_path}/out --workers 1 --run_id r {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out/_runs/r.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status"), [("--max_failed_fraction 0", 1), ("--alpha 1e-9", 2)], ids=["failed", "refused"]
)
def test_a_status_does_not_hang_on_whether_its_reason_is_read(images, tmp_path, arguments, status):
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mdmf_ops", "scan", "broken", "--output", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([*command, *arguments.split()], stdout=written, stderr=written, timeout=120, cwd=images)
    os.close(written)
    assert done.returncode == status


def test_help_and_refusals_of_every_verb_need_neither_beam_nor_torch():
    """They take seconds to import."""
    script = """
import sys
from mdmf_ops.cli import VERBS, make_parser
make_parser(VERBS)
print(*{"apache_beam", "torch", "scipy"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


def test_unknown_verb_and_flag_are_refused(said):
    assert mdmf("scam").returncode == 2
    assert said("evaluate", "--colour", "red")[0] == 2


@pytest.mark.parametrize(
    ("verb", "missing", "extra"), [("stream", "google.cloud", "gcp"), ("evaluate", "sklearn", "train")]
)
def test_a_verb_whose_extra_is_not_installed_says_which(verb, missing, extra):
    # The package is there; the import system is told that it is not.
    script = f"import sys; sys.modules[{missing!r}] = None; from mdmf_ops.cli import main; sys.exit(main([{verb!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"mdmf {verb} needs {missing}") and f"pip install 'mdmf-ops[{extra}]'" in line


@pytest.mark.parametrize(("verb", "file"), [("scan", "pipelines/__init__.py"), ("stream", "pipelines.py")])
def test_what_hides_our_pipelines_is_named_and_no_extra_is_offered(tmp_path, verb, file):
    hiding = tmp_path / file
    hiding.parent.mkdir(exist_ok=True)
    hiding.touch()
    # As installed, not as an editable install finds it.
    script = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path[:] = [{str(tmp_path)!r}, *(path for path in sys.path if path), {str(ROOT)!r}]
from mdmf_ops.cli import main
sys.exit(main([{verb!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"mdmf {verb} needs pipelines.") and "pip install" not in line
    assert f"{tmp_path}/pipelines" in line


@pytest.mark.parametrize("words", ["runs list gs://bucket/scores", "scan gs://bucket/photos --output scores"])
def test_a_bucket_without_googles_client_says_what_to_install(words, tmp_path):
    script = """
import sys
sys.modules["google_crc32c"] = None
from mdmf_ops.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", script, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"mdmf {words.split()[0]}: gs:// needs Google's client: pip install 'mdmf-ops[gcp]'")
