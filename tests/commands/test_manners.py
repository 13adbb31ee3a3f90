"""What scripts and shells may count on: exit statuses, JSON, whole lines, quiet pipes, completion."""

import argparse
import datetime
import json
import subprocess
import sys

import pytest
from conftest import ROOT, copy_detector, make_row, write_images

import model_assets
from mdmf_ops import cli
from mdmf_ops.beam import Run, storage
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard
from mdmf_ops.commands.terminal import console, plain

LONG = "/archive/" + "a-rather-long-folder-name/" * 6 + "photo.jpg"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """An output of one run of 3,000 rows: more JSON than a pipe holds."""
    output = tmp_path_factory.mktemp("scores")
    run = Run(str(output), "night", "2026-01-02", "2026-01-02T01:00:00+00:00")
    moment = datetime.datetime(2026, 1, 2, 1, tzinfo=datetime.timezone.utc)
    rows = [
        make_row(uri) | {"run_id": "night", "scanned_at": moment} for uri in (LONG, *map("/b/{}".format, range(2999)))
    ]
    commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions())
    return output


def status_of(*arguments):
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse's own
        return exit_.code


def test_status_0_is_done(output, capsys):
    assert status_of("runs", "verify", output) == 0
    assert status_of("latest", output) == 0
    assert status_of("schema") == 0
    assert status_of("assets", "verify", model_assets.embedded()) == 0


def test_status_1_is_failed_or_damaged(output, tmp_path, capsys):
    copy_detector(tmp_path / "detector", "d")
    (tmp_path / "detector" / "bank.safetensors").write_bytes(b"x")
    assert status_of("assets", "verify", tmp_path / "detector") == 1
    run = Run(str(tmp_path / "damaged"), "r", "2026-01-02", "2026-01-02T01:00:00+00:00")
    file = write_shard(run, 0, 1, [make_row("/a") | {"run_id": "r"}])
    commit(run, 1, [file], CommitOptions())
    (tmp_path / "damaged" / file["path"]).write_bytes(b"x")
    assert status_of("runs", "verify", tmp_path / "damaged") == 1


def test_one_run_alone_is_verified_and_a_damaged_one_is_told_on_stderr(tmp_path, capsys):
    for run_id in ("sound", "hurt"):
        run = Run(str(tmp_path), run_id, "2026-01-02", "2026-01-02T01:00:00+00:00")
        file = write_shard(run, 0, 1, [make_row("/a") | {"run_id": run_id}])
        commit(run, 1, [file], CommitOptions())
    (tmp_path / file["path"]).write_bytes(b"x")
    assert status_of("runs", "verify", tmp_path, "--run_id", "sound") == 0
    assert capsys.readouterr() == ("sound: whole\n", "")
    assert status_of("runs", "verify", tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == "sound: whole\n" and err.startswith("hurt: damaged\n") and file["path"] in err
    assert status_of("runs", "verify", tmp_path, "--run_id", "other") == 2
    assert status_of("runs", "gc", tmp_path, "--run_id", "hurt") == 2


def test_status_1_is_a_run_that_is_not_complete(tmp_path, capsys):
    photos = write_images(tmp_path / "photos", good=1, broken=1)
    arguments = ("--output", tmp_path / "scores", "--workers", 1, "--max_failed_fraction", 0)
    assert status_of("scan", photos, *arguments) == 1
    assert "not complete" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "forbidden", "damaged"])
@pytest.mark.parametrize("verb", [["latest"], ["latest", "--json"], ["runs", "verify"]], ids=" ".join)
def test_status_1_is_a_data_file_that_cannot_be_read(tmp_path, capsys, monkeypatch, verb, damage):
    run = Run(str(tmp_path), "r", "2026-01-02", "2026-01-02T01:00:00+00:00")
    file = write_shard(run, 0, 1, [make_row("/a") | {"run_id": "r"}])
    commit(run, 1, [file], CommitOptions())
    path = tmp_path / file["path"]
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(b"x")
    else:

        def forbidden(opened):  # by hand: root may read everything
            if opened == str(path):
                raise PermissionError(13, "Permission denied", opened)
            return storage.open_file(opened)

        for module in ("commit", "runs"):
            monkeypatch.setattr(f"mdmf_ops.beam.{module}.open_file", forbidden)
    assert status_of(*verb, tmp_path) == 1
    told = capsys.readouterr()
    assert str(path) in told.err and len(told.err.splitlines()) <= 2 and "Traceback" not in told.err


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "1e300", "day"])
def test_gc_needs_an_age(output, capsys, hours):
    assert status_of("runs", "gc", output, "--older_than_h", hours) == 2
    assert f"{hours} is not a number of hours" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["latest", "nowhere"],
        ["latest", "file:///scores"],
        ["runs", "gc", "file:///scores"],
        ["latest", "s3://bucket/scores"],
        ["latest", "scores", "--colour"],
        ["runs", "count", "scores"],
        ["scan", "--output", "scores"],
        ["schema", "--format", "bigquery"],
        ["completion", "dos"],
        ["nothing"],
        [],
    ],
)
def test_status_2_is_a_command_that_cannot_be_carried_out(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status_of(*arguments) == 2
    told = capsys.readouterr()
    assert told.err.strip() and not told.out
    assert not list(tmp_path.iterdir())


def test_the_statuses_are_told_by_help_and_by_the_page_for_operators():
    page = (ROOT / "docs/operators.md").read_text()
    for status in (cli.EXIT_OK, cli.EXIT_FAILED, cli.EXIT_USAGE):
        assert f"| {status} |" in page
        assert f"{status} " in cli.EPILOG


def test_the_folder_of_the_embedded_detector_is_told_since_verbs_ask_for_it(capsys):
    assert status_of("assets", "list") == 0
    assert f" {model_assets.embedded()}\n" in capsys.readouterr().out


def json_of(capsys, *arguments):
    status = status_of(*arguments, "--json")
    told = capsys.readouterr()
    return status, json.loads(told.out), told.err


def test_json_is_all_that_stdout_has(output, tmp_path, capsys):
    status, runs, errors = json_of(capsys, "runs", "list", output)
    assert (status, [run["run_id"] for run in runs], errors) == (0, ["night"], "")
    assert json_of(capsys, "runs", "verify", output) == (0, {"runs": {"night": []}, "strays": []}, "")
    assert json_of(capsys, "runs", "gc", output) == (0, [], "")
    status, assets, errors = json_of(capsys, "assets", "list")
    embedded = model_assets.read_assets(model_assets.embedded()).detector_id
    assert (status, assets["detectors"][0]["detector_id"], errors) == (0, embedded, "")
    status, verified, errors = json_of(capsys, "assets", "verify", model_assets.embedded())
    assert (status, verified[0]["detector_id"], verified[0]["error"], errors) == (0, embedded, None, "")
    status, verified, errors = json_of(capsys, "assets", "verify", tmp_path)
    assert status == 1 and verified[0]["error"] and len(errors.splitlines()) == 1


def mdmf(*arguments, **options):
    command = [sys.executable, "-m", "mdmf_ops", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


def test_a_pipe_gets_whole_lines_and_no_progress(output):
    done = mdmf("latest", output, "--limit", 1)
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if "photo.jpg" in line]
    assert line.split()[:2] == [LONG, "likely_real"]
    assert "\x1b" not in done.stdout


def test_a_name_is_shown_as_it_is(tmp_path, capsys):
    name = "/p/1:100:2:heart:.jpg"
    run = Run(str(tmp_path), "r", "2026-01-02", "2026-01-02T01:00:00+00:00")
    commit(run, 1, [write_shard(run, 0, 1, [make_row(name) | {"run_id": "r", "p_value": 0.5}])], CommitOptions())
    assert status_of("latest", tmp_path) == 0
    assert name in capsys.readouterr().out
    console().print(f"[bold]{plain(name)}[/]")
    assert name in capsys.readouterr().out


def test_fewer_rows_than_none_cannot_be_shown(output, capsys):
    assert status_of("latest", output, "--limit", -3) == 2
    assert "--limit -3: 0 for all" in capsys.readouterr().err


def test_what_only_reads_an_output_starts_without_beam_and_torch(output):
    script = f"""
import sys
from mdmf_ops.cli import main
main(["latest", {str(output)!r}, "--limit", "1"]), main(["runs", "list", {str(output)!r}]), main(["schema"])
print(sorted(sys.modules.keys() & {{"apache_beam", "torch", "google.cloud.storage"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.splitlines()[-1], done.returncode) == ("[]", 0), done.stderr


def test_a_reader_that_has_read_enough_is_no_error(output):
    command = f"set -o pipefail; {sys.executable} -m mdmf_ops latest {output} --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["image_uri"] == LONG


@pytest.mark.parametrize("verb", ["latest", "runs list", "scan"])
def test_a_table_that_nobody_reads_leaves_the_status_as_it_is(output, tmp_path, verb):
    arguments = f"{output} --limit 0" if verb == "latest" else output
    if verb == "scan":
        photos = write_images(tmp_path / "photos", good=1)
        arguments = f"{photos} --output {tmp_path / 'scores'} --workers 1 --run_id r"
    command = f"set -o pipefail; {sys.executable} -m mdmf_ops {verb} {arguments} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert verb != "scan" or (tmp_path / "scores/_runs/r.json").exists()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """An output of more runs than a pipe's buffer holds, the last of which is damaged; and the name of that one."""
    folder = tmp_path_factory.mktemp("damaged")
    for i in range(300):
        run = Run(str(folder), f"r{i:03}-{'x' * 60}", "2026-01-02", f"2026-01-02T00:{i // 60:02}:{i % 60:02}+00:00")
        file = write_shard(run, 0, 1, [make_row("/a") | {"run_id": run.run_id}])
        commit(run, 1, [file], CommitOptions())
    (folder / file["path"]).write_bytes(b"x")
    return folder, run.run_id


@pytest.mark.parametrize("form", ["", "--json"])
def test_the_status_of_damage_does_not_hang_on_how_much_of_it_is_read(damaged, form):
    folder, run_id = damaged
    command = f"set -o pipefail; {sys.executable} -m mdmf_ops runs verify {folder} {form}"
    for reader in ("| true", "> /dev/full"):
        done = subprocess.run(["bash", "-c", f"{command} {reader}"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert form or done.stderr.startswith(f"{run_id}: damaged\n")


def completed(script, *words):
    """What bash offers for the last of some words."""
    quoted = " ".join(f"'{word}'" for word in words)
    ask = (
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{' '.join(words)}'; COMP_POINT=${{#COMP_LINE}}"
    )
    function = "$(complete -p mdmf | sed -E 's/.*-F ([^ ]+) .*/\\1/')"
    code = f"{script}\n{ask}; {function} mdmf '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in done.stdout.split("\n") if word.strip()]


@pytest.fixture(scope="module")
def script():
    done = mdmf("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_bash_completes_verbs_options_and_choices(script):
    assert completed(script, "mdmf", "s") == ["scan", "schema", "stream"]
    assert completed(script, "mdmf", "scan", "--skip") == ["--skip_unchanged"]
    assert completed(script, "mdmf", "scan", "--device", "c") == ["cpu", "cuda"]
    assert completed(script, "mdmf", "runs", "v") == ["verify"]
    assert completed(script, "mdmf", "assets", "f") == ["fetch"]


@pytest.mark.parametrize(
    "words",
    ["scan", "scan --c2pa_trust", "explain", "explain --save", "explain --output", "stream --assets", "assets fetch"],
)
def test_bash_completes_files_where_an_argument_is_one(script, tmp_path, words):
    (tmp_path / "photos").mkdir()
    assert completed(script, "mdmf", *words.split(), f"{tmp_path}/pho") == [f"{tmp_path}/photos"]


def test_bash_completes_no_file_where_a_name_is_asked_for(script, tmp_path):
    (tmp_path / "photos").mkdir()
    assert completed(script, "mdmf", "train", "--leave_out", f"{tmp_path}/pho") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in cli.VERBS) and "skip_unchanged" in script


def test_every_help_teaches():
    def check(parser, command):
        assert f"\n    {command} " in parser.description, f"{command}: no example"
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), f"{command}: {action.metavar}"
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    check(child, command if command == "mdmf assets" else f"{command} {name}")

    check(cli.make_parser(cli.VERBS)[0], "mdmf")


@pytest.mark.parametrize("verb", ["scan", "explain"])
def test_an_error_is_one_line_without_escapes_and_secrets(verb, tmp_path, capsys):
    more = ["--output", tmp_path / "out"] if verb == "scan" else []
    for name in ("https://me:hunter2@x.org/a\x1b[31m\n.jpg?sig=hunter2", "/nothing\x1b]0;here\x07\nmdmf: done"):
        assert status_of(verb, name, *more) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told[:-1].isprintable() and "hunter2" not in told
