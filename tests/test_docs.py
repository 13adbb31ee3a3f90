"""What the pages show runs as it stands: commands, Python, links; and what the examples schedule is there."""

import argparse
import ast
import configparser
import datetime
import fcntl
import os
import random
import re
import shlex
import shutil
import subprocess
import sys

import apache_beam.options.pipeline_options as beam_options
import pytest
from conftest import ROOT, encode, make_row, photo, write_images
from pages import PAGES, blocks, indented

from mdmf_ops import cli
from mdmf_ops.beam import CommitOptions, Run
from mdmf_ops.beam.commit import commit, write_shard
from mdmf_ops.beam.stream.subscription import DRAIN_S
from mdmf_ops.detector import ErrorCode
from pipelines.options import read_options, unknown_to_beam
from pipelines.rescan import RescanOptions
from pipelines.stream import StreamOptions

RUN = ("operators", "analysts", "developers")
"""Pages whose blocks of `sh` and `python` are run one after the other, in one folder."""

COMMAND = re.compile(r"^(?:\.venv/bin/)?(mdmf .*)$", re.MULTILINE)


@pytest.fixture
def home(tmp_path):
    """A folder with photographs, and `mdmf` and `python` on its PATH as an installation has them."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "photo.jpg").write_bytes(encode(photo(1)))
    write_images(home / "photos", good=6, broken=2)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, module in (("mdmf", " -m mdmf_ops"), ("python", "")):
        (binaries / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
        (binaries / name).chmod(0o755)
    return home


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs_from_top_to_bottom(name, home):
    text = (ROOT / f"docs/{name}.md").read_text()
    environment = os.environ | {"PATH": f"{home.parent / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    found = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    for language, block in found:
        command = ["bash", "-euo", "pipefail", "-c", block] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=home,
            env=environment,
            preexec_fn=_on_one_core,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        assert "Error" not in done.stderr, done.stderr


def _on_one_core():
    """Another core would be another worker process, which takes longer to start than eight images to score."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {random.choice(list(os.sched_getaffinity(0)))})


def commands(page):
    """Every whole `mdmf ...` line in a page's code, less what pipes and comments say behind it."""
    code = "\n".join([*blocks(page.read_text(), ""), *blocks(page.read_text(), "sh"), *indented(page)])
    for line in COMMAND.findall(re.sub(r" *\\\n *", " ", code)):
        line = re.split(r" {3,}| [|>#]", line)[0].strip()
        if "..." not in line:
            yield line


EVERY_COMMAND = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_the_pages_show_commands():
    assert len(EVERY_COMMAND) > 20
    assert {line.split()[1] for _, line in EVERY_COMMAND} >= {"scan", "stream", "latest", "runs", "schema", "assets"}


@pytest.mark.parametrize(("page", "line"), EVERY_COMMAND, ids=[f"{page}: {line}" for page, line in EVERY_COMMAND])
def test_a_command_that_a_page_shows_is_one(page, line):
    words = shlex.split(line)[1:]
    verb = next((word for word in words if not word.startswith("-")), "")
    parser, modules = cli.make_parser([verb])
    if words[-1] in ("--help", "--version"):
        assert verb in ("", *cli.VERBS)
        return
    _, rest = parser.parse_known_args(words)
    assert not rest or getattr(modules[verb], "TAKES_BEAM_FLAGS", False), f"{page}: unknown {rest}"


def test_a_pipeline_that_a_page_starts_has_options_that_it_or_beam_knows():
    code = "\n".join(block for page in PAGES for block in blocks(page.read_text(), ""))
    found = re.findall(r"^python -m pipelines\.(\w+) (.*)$", re.sub(r" *\\\n *", " ", code), re.MULTILINE)
    assert found
    for pipeline, words in found:
        flags = shlex.split(words)
        options = read_options({"rescan": RescanOptions, "stream": StreamOptions}[pipeline], flags)
        assert unknown_to_beam(flags) == [] and options.output
        # A job is submitted, on the workers' image, as the account that may read the images.
        beams = options.get_all_options()
        assert all(beams[name] for name in ("project", "region", "sdk_container_image", "service_account_email"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_verb_or_flag_that_a_page_speaks_of_is_there(page):
    for mention in re.findall(r"(?<!`)`mdmf ([a-z][^`]*)`", page.read_text()):
        verb, *words = mention.replace("\\|", " ").split()
        assert verb in cli.VERBS, f"{page.name}: mdmf {mention}"
        parser, _ = cli.make_parser([verb])
        [verbs] = [action for action in parser._actions if action.dest == "verb"]
        told = "".join(_helps(verbs.choices[verb]))
        for flag in (word.strip(".,;:[]") for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", told), f"{page.name}: mdmf {mention}"


def _helps(parser):
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (child.format_help() for child in action.choices.values())


def slugs(text):
    """Anchors of a page's headings, as they are made of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in slugs(linked.read_text()), f"{page.name}: {target}"


def test_operators_find_every_error_code():
    page = (ROOT / "docs/operators.md").read_text()
    table = page[page.index("| `error_code` | what") :].split("\n\n")[0]
    found = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[1:]
    assert sorted(found) == sorted(code.value for code in ErrorCode)


def test_the_rooms_that_the_architecture_names_are_there():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for room in re.findall(r"^\*\*(.+?)\*\*:", text, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", room):
            assert (ROOT / name).exists(), name
    for room in ("mdmf_ops/beam", "mdmf_ops/beam/stream"):
        [told] = re.findall(rf"^\*\*`{room}/`\*\*.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
        found = {file.name for file in (ROOT / room).glob("*.py")}
        assert set(re.findall(r"`(\w+\.py)`", told)) == found - {"__init__.py"}


def test_a_room_knows_those_above_it_and_none_below():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\*\*`([^`]+)`\*\*:", text, re.MULTILINE)
    rooms = [name.strip("/").removesuffix(".py").replace("/", ".") for name in named]
    assert rooms[0] == "model_assets" and rooms[-1] == "mdmf_ops.commands"
    for file in (
        file for package in ("mdmf_ops", "pipelines", "model_assets") for file in (ROOT / package).rglob("*.py")
    ):
        own = _room(".".join(file.relative_to(ROOT).with_suffix("").parts), rooms)
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for known in (_room(name, rooms) for name in names):
                assert own is None or known is None or known <= own, f"{file.relative_to(ROOT)} knows {rooms[known]}"


def _room(module, rooms):
    """Number of the innermost room that a module is in; None of one that is in none."""
    around = [i for i, room in enumerate(rooms) if f"{module}.".startswith(f"{room}.")]
    return max(around, key=lambda i: len(rooms[i]), default=None)


def options_of(source):
    """The dictionary of pipeline options in a DAG, its templates as they are; other names in it are their text."""
    tree = ast.parse(source)
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = {name: ast.Constant(value) for name, value in values.items()}
            value = ast.Expression(_Filled(names).visit(node.value))
            values[node.targets[0].id] = ast.literal_eval(ast.fix_missing_locations(value))
    return values["PIPELINE_OPTIONS"]


class _Filled(ast.NodeTransformer):
    def __init__(self, names):
        self._names = names

    def visit_Name(self, node):
        return self._names[node.id]


def test_every_option_of_the_airflow_dag_is_one_of_the_rescan_or_of_beam():
    options = options_of((ROOT / "examples/airflow_dag.py").read_text())
    # As the provider's hook makes flags of them.
    flags = []
    for name, value in options.items():
        if value is True:
            flags.append(f"--{name}")
        else:
            flags += [f"--{name}={each}" for each in (value if isinstance(value, list) else [value])]
    parser = beam_options._BeamArgumentParser(allow_abbrev=False)
    for kind in (*beam_options.PipelineOptions.__subclasses__(), RescanOptions):
        if kind is RescanOptions or kind.__module__ == beam_options.__name__:
            parser.conflict_handler = "resolve"
            parser._optionals.conflict_handler = "resolve"
            kind._add_argparse_args(parser)
    parsed, unknown = parser.parse_known_args(flags)
    assert unknown == []
    assert parsed.skip_unchanged == parsed.output and parsed.max_failed_fraction == 0.05
    assert parsed.use_public_ips is False and parsed.max_num_workers == 20


def test_the_airflow_dag_is_one():
    pytest.importorskip("airflow.providers.apache.beam", reason="pip install apache-airflow-providers-apache-beam")
    from airflow.models import DagBag

    bag = DagBag(str(ROOT / "examples/airflow_dag.py"), include_examples=False)
    assert not bag.import_errors
    assert [task.task_id for task in bag.dags["mdmf_nightly"].tasks] == ["rescan", "verify"]


def test_the_lines_of_the_crontab_are_commands():
    lines = (ROOT / "examples/crontab").read_text().splitlines()
    jobs = [line for line in lines if re.match(r"[\d*]", line)]
    assert len(jobs) == 2
    for job in jobs:
        assert re.match(r"(?:[\d*/,-]+ ){5}", job)
        found = re.findall(r"mdmf (?:scan|runs) [^>&|)]+", job)
        assert found
        for command in found:
            words = shlex.split(command)[1:]
            _, rest = cli.make_parser([words[0]])[0].parse_known_args(words)
            assert rest == []


def test_the_weekly_line_of_the_crontab_says_nothing_unless_a_run_is_damaged(home):
    output = home / "scores"
    run = Run(str(output), "monday", "2026-01-05", "2026-01-05T02:00:00+00:00")
    file = write_shard(run, 0, 1, [make_row("/a") | {"run_id": "monday"}])
    commit(run, 1, [file], CommitOptions())
    [weekly] = [line for line in (ROOT / "examples/crontab").read_text().splitlines() if " runs verify " in line]
    line = re.sub(r"(?:\S+ ){5}", "", weekly, count=1).replace("/srv/scores", str(output))
    environment = os.environ | {"PATH": f"{home.parent / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def mailed():
        """What cron would mail: all that the line prints."""
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, env=environment)
        return done.stdout + done.stderr

    assert mailed() == ""
    (output / file["path"]).write_bytes(b"x")
    assert file["path"] in mailed()


def test_a_night_that_the_last_one_keeps_from_starting_is_mailed(tmp_path):
    if shutil.which("flock") is None:
        pytest.skip("no flock: apt-get install util-linux")
    [nightly] = [line for line in (ROOT / "examples/crontab").read_text().splitlines() if " mdmf scan " in line]
    lock = str(tmp_path / "lock")
    line = re.sub(r"(?:\S+ ){5} *", "", nightly, count=1).replace("/tmp/mdmf.lock", lock).replace(" mdmf ", " true ")
    with open(lock, "w") as last_night:
        for held, mail in ((False, ""), (True, "flock: failed to get lock\n")):
            if held:
                fcntl.flock(last_night, fcntl.LOCK_EX)
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
            assert (done.stdout + done.stderr, done.returncode) == (mail, int(held))


def test_a_night_and_a_start_by_hand_on_its_day_are_two_runs():
    run_id = options_of((ROOT / "examples/airflow_dag.py").read_text())["run_id"]
    moments = [datetime.datetime(2026, 1, 31, hour, tzinfo=datetime.timezone.utc) for hour in (2, 9)]
    # As Airflow names a run by its moment.
    given = [{"ds_nodash": f"{at:%Y%m%d}", "ts_nodash": f"{at:%Y%m%dT%H%M%S}"} for at in moments]
    ids = [re.sub(r"\{\{ (\w+) \}\}", lambda name, names=names: names[name[1]], run_id) for names in given]
    assert ids[0] != ids[1] and all(Run.start("/scores", each).run_id == each for each in ids)


def test_the_unit_of_the_stream_is_a_command_that_has_the_time_to_end():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "examples/mdmf-stream.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/mdmf")
    _, rest = cli.make_parser(["stream"])[0].parse_known_args(words)
    assert rest == []
    assert int(service["TimeoutStopSec"]) > DRAIN_S and service["KillMode"] == "mixed"
