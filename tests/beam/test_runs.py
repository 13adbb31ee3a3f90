"""What lies in an output after good, killed and damaged runs: shown, checked, cleaned, queried."""

import datetime
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import files_in, make_row

from mdmf_ops import cli
from mdmf_ops.beam import Run
from mdmf_ops.beam import commit as commit_module
from mdmf_ops.beam import runs as runs_module
from mdmf_ops.beam.commit import CommitOptions, ManifestError, commit, read_manifests, retract, write_shard
from mdmf_ops.beam.previous import read_seen
from mdmf_ops.beam.runs import collect, find_rows, latest_rows, latest_sql, strays, verify_run
from mdmf_ops.beam.storage import list_files
from mdmf_ops.schema import SCHEMA, SCHEMA_VERSION


def at(hour):
    return datetime.datetime(2026, 1, 2, hour, tzinfo=datetime.timezone.utc)


def add(output, run_id, hour, uris, scan_date="2026-01-02", num_shards=1, committed=True):
    run = Run(str(output), run_id, scan_date, at(hour).isoformat())
    rows = [make_row(uri) | {"run_id": run_id, "scanned_at": at(hour)} for uri in uris]
    files = [write_shard(run, i, num_shards, rows[i::num_shards]) for i in range(num_shards)]
    if committed:
        commit(run, len(rows), files, CommitOptions())
    return run


@pytest.fixture
def output(tmp_path):
    add(tmp_path, "night-1", 1, ["/a", "/b", "/ü", "/c"], num_shards=2)
    add(tmp_path, "night-2", 2, ["/b", "/d"], scan_date="2026-01-03")
    add(tmp_path, "killed", 3, ["/a", "/d", "/e"], scan_date="2026-01-03", committed=False)
    return tmp_path


LATEST = [("/a", "night-1"), ("/b", "night-2"), ("/c", "night-1"), ("/d", "night-2"), ("/ü", "night-1")]


def test_latest_is_the_newest_committed_row_of_every_image(output):
    assert [(row["image_uri"], row["run_id"]) for row in latest_rows(str(output))] == LATEST


def test_the_query_for_duckdb_says_the_same(output):
    rows = duckdb.sql(f"select image_uri, run_id from ({latest_sql(str(output))})").fetchall()
    assert sorted(rows) == LATEST


def test_the_query_of_one_verdict_has_the_images_that_have_it_now(tmp_path, capsys):
    for hour, verdicts in enumerate((["likely_ai", "likely_ai", "uncertain"], ["likely_ai", "likely_real"])):
        run = Run(str(tmp_path), f"night-{hour}", "2026-01-02", at(hour).isoformat())
        rows = [
            make_row(uri) | {"run_id": run.run_id, "scanned_at": at(hour), "verdict": verdict}
            for uri, verdict in zip(["/a", "/b", "/c"], verdicts, strict=False)
        ]
        commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions())
    for verdict, expected in (("likely_ai", ["/a"]), ("uncertain", ["/c"]), ("likely_real", ["/b"])):
        assert cli.main(["latest", str(tmp_path), "--sql", "--verdict", verdict]) == cli.EXIT_OK
        found = duckdb.sql(capsys.readouterr().out).fetchall()
        assert [row[SCHEMA.get_field_index("image_uri")] for row in found] == expected


@pytest.mark.parametrize("name", ["a[1]", "a*?", "it's[[!x]"])
def test_the_query_reads_a_folder_of_any_name_however_many_nights_found_nothing_new(tmp_path, name):
    output = tmp_path / name
    # DuckDB looks at the first 32 manifests by name for what is in them.
    for night in range(33):
        commit(Run(str(output), f"0-{night}", "2026-01-01", at(1).isoformat()), 1, [], CommitOptions(), skipped=1)
    add(output, "night-1", 1, ["/a", "/b"])
    add(output, "night-2", 2, ["/b"])
    rows = duckdb.sql(f"select image_uri, run_id from ({latest_sql(str(output))})").fetchall()
    assert sorted(rows) == [("/a", "night-1"), ("/b", "night-2")]


def write_windows(output, windows, rng):
    """An output of a run and a file for each window, as a stream makes it; gives the newest run of every URI."""
    newest = {}
    for window in range(windows):
        moment = at(0) + datetime.timedelta(seconds=300 * window)
        run = Run(str(output), f"w-{window:03d}", "2026-01-02", moment.isoformat())
        # Late rows are older than those of the windows before; the same name may come twice in a window.
        rows = [
            make_row(f"/{rng.choice('abü😀')}{rng.randrange(40)}")
            | {"run_id": run.run_id, "scanned_at": moment + datetime.timedelta(seconds=rng.uniform(-900, 900))}
            for _ in range(rng.randrange(1, 12))
        ]
        commit(run, len(rows), [write_shard(run, 0, 1, rows)], CommitOptions())
        for row in rows:
            found = (row["scanned_at"], run.run_id)
            newest[row["image_uri"]] = max(newest.get(row["image_uri"], found), found)
    return [(uri, run_id) for uri, (_, run_id) in sorted(newest.items())]


@pytest.mark.parametrize("most_open", [2, 3, 30])
@pytest.mark.parametrize("batch_rows", [1, 3, 4096])
def test_however_many_files_are_read_side_by_side_the_newest_rows_are_the_same(
    tmp_path, monkeypatch, most_open, batch_rows
):
    expected = write_windows(tmp_path, 30, random.Random(batch_rows))
    open_file, opened = runs_module.open_file, []
    most = 0

    def counted(path):
        nonlocal most
        opened.append(open_file(path))
        most = max(most, sum(not file.closed for file in opened))
        return opened[-1]

    monkeypatch.setattr(runs_module, "_MOST_OPEN", most_open)
    monkeypatch.setattr(runs_module, "_BATCH_ROWS", batch_rows)
    monkeypatch.setattr(runs_module, "open_file", counted)
    assert [(row["image_uri"], row["run_id"]) for row in latest_rows(str(tmp_path))] == expected
    assert most == most_open
    assert all(file.closed for file in opened)


def test_a_stream_of_days_is_read_with_few_files_open(tmp_path):
    expected = write_windows(tmp_path, 150, random.Random(1))
    script = f"""
import resource
from mdmf_ops.beam.runs import latest_rows
resource.setrlimit(resource.RLIMIT_NOFILE, (140, 140))
print([(row["image_uri"], row["run_id"]) for row in latest_rows({str(tmp_path)!r})])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == (f"{expected}\n", 0), done.stderr


def test_of_two_rows_of_one_moment_that_of_the_last_run_by_name_counts(tmp_path, monkeypatch):
    for run_id in ("x", "z", "y"):
        add(tmp_path, run_id, 1, ["/a", "/b"])
    for most_open in (100, 2):
        monkeypatch.setattr(runs_module, "_MOST_OPEN", most_open)
        assert [row["run_id"] for row in latest_rows(str(tmp_path))] == ["z", "z"]


@pytest.mark.parametrize("damage", ["missing", "damaged", "damaged within"])
def test_a_data_file_that_cannot_be_read_is_named(output, damage):
    path = next(output.glob("scan_date=*/night-2-*.parquet"))
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(b"x")
    else:
        content = bytearray(path.read_bytes())
        start = pq.read_metadata(path).row_group(0).column(SCHEMA.get_field_index("image_uri")).data_page_offset
        content[start : start + 8] = b"\xff" * 8
        path.write_bytes(content)
    for read in (lambda: list(latest_rows(str(output))), lambda: list(read_seen(str(path)))):
        with pytest.raises(OSError, match=path.name):
            read()


@pytest.mark.parametrize("column", ["image_uri", "scanned_at", "detector_id"])
@pytest.mark.parametrize("values", ["missing", None, ["a list"]])
def test_a_data_file_whose_columns_are_not_the_schemas_is_named(output, column, values):
    path = next(output.glob("scan_date=*/night-2-*.parquet"))
    table = pq.ParquetFile(path).read()
    others = table.drop_columns([column])
    pq.write_table(others if values == "missing" else others.append_column(column, pa.array([values] * 2)), path)
    for read in (lambda: list(latest_rows(str(output))), lambda: list(read_seen(str(path)))):
        with pytest.raises(OSError, match=rf"{path.name}: damaged or out of reach: .+"):
            read()


@pytest.mark.parametrize(("us", "shown"), [(2**63 - 1, "9999-12-31 23:59:59"), (-(2**63), "0001-01-01 00:00:00")])
def test_a_time_beyond_the_calendar_costs_no_row(output, capsys, us, shown):
    path = next(output.glob("scan_date=*/night-2-*.parquet"))
    table = pq.ParquetFile(path).read()
    for name, values in (("scanned_at", [us, us]), ("image_modified_at", [us, None])):
        place, kind = SCHEMA.get_field_index(name), SCHEMA.field(name).type
        table = table.set_column(place, SCHEMA.field(name), pa.array(values, pa.int64()).cast(kind))
    pq.write_table(table, path)
    found = list(find_rows(str(output), None, read_manifests(str(output))))
    assert [str(row["scanned_at"])[:19] for row in found if row["run_id"] == "night-2"] == [shown] * 2
    modified = {row["image_uri"]: row["image_modified_at"] for row in found if row["run_id"] == "night-2"}
    assert (str(modified["/b"])[:19], modified["/d"]) == (shown, None)
    assert [uri for uri, _seen in read_seen(str(path))] == ["/b", "/d"]
    for arguments in (["latest"], ["latest", "--json"]):
        assert cli.main([*arguments, str(output)]) == cli.EXIT_OK
    assert "/d" in capsys.readouterr().out


@pytest.mark.parametrize("older", ["night-1", "night-2"])
def test_files_of_an_older_schema_are_read_with_what_they_lack_unknown(output, older):
    for path in output.glob(f"scan_date=*/{older}-*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["declared_software", "c2pa_signature", "declared_us"]), path)
    columns = ("image_uri", "image_generation", "run_id", "scanned_at", "c2pa_signature")
    rows = list(latest_rows(str(output), columns))
    assert [(row["image_uri"], row["run_id"]) for row in rows] == LATEST
    assert all(row.keys() == set(columns) and row["c2pa_signature"] is None for row in rows)
    query = f"select image_uri, run_id, c2pa_signature from ({latest_sql(str(output))})"
    assert sorted(duckdb.sql(query).fetchall()) == [(*row, None) for row in LATEST]


def test_duckdb_reads_one_day_from_that_days_files_alone(output):
    source = f"read_parquet('{output}/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"select count(*) from {source}").fetchall() == [(9,)]
    query = f"select image_uri from {source} where scan_date = '2026-01-02' and verdict = 'likely_real'"
    assert sorted(duckdb.sql(query).fetchall()) == [("/a",), ("/b",), ("/c",), ("/ü",)]
    plan = duckdb.sql(f"explain analyze {query}").fetchall()[0][1]
    assert "Scanning Files: 2/4" in plan.replace("\n", " ")


def test_a_whole_run_verifies_and_what_a_killed_one_left_is_stray(output):
    assert [verify_run(str(output), manifest) for manifest in read_manifests(str(output))] == [[], []]
    assert [Path(file.path).name for file in strays(str(output))] == ["killed-00000-of-00001.parquet"]


@pytest.mark.parametrize("damage", ["missing", "changed", "swapped"])
def test_a_damaged_run_says_which_file(output, damage):
    manifest = read_manifests(str(output))[0]
    first, second = (output / file["path"] for file in manifest["files"])
    if damage == "missing":
        first.unlink()
    elif damage == "changed":
        first.write_bytes(first.read_bytes()[:-1] + b"x")
    else:
        first.write_bytes(second.read_bytes())
    [line] = verify_run(str(output), manifest)
    assert str(first) in line


def test_gc_leaves_the_young_the_committed_and_no_empty_folder(output):
    add(output, "young", 3, ["/y"], scan_date="2026-01-05", committed=False)
    add(output, "old", 3, ["/o"], scan_date="2026-01-06", committed=False)
    temporary = output / "_tmp" / "old" / "mdmf-1.tmp"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.touch()
    committed = [path for path in files_in(output) if "night" in path]
    for path in output.rglob("*old*"):
        os.utime(path, (0, 0))
    os.utime(temporary, (0, 0))
    collect(str(output), strays(str(output), min_age_s=3600))
    names = {path.name for path in output.rglob("*")}
    assert {"young-00000-of-00001.parquet", "killed-00000-of-00001.parquet"} <= names
    assert not (output / "scan_date=2026-01-06").exists() and not (output / "_tmp" / "old").exists()
    collect(str(output), strays(str(output)))
    assert files_in(output) == committed


def test_gc_leaves_the_claim_of_a_run_that_scores_for_days(tmp_path):
    run = Run.start(str(tmp_path), "long")
    retract(run)
    os.utime(run.claim_path, (0, 0))
    temporary = Path(run.temporary_folder, "mdmf-1.tmp")
    temporary.touch()
    assert [file.path for file in strays(run.output)] == [str(temporary)]
    collect(run.output, strays(run.output))
    commit(run, 1, [write_shard(run, 0, 1, [make_row("/a") | {"run_id": "long"}])], CommitOptions())
    assert [manifest["run_id"] for manifest in read_manifests(run.output)] == ["long"]
    assert not (tmp_path / "_tmp").exists()


def test_gc_leaves_what_no_run_has_written(output):
    own = [
        *("_tmp/rocket.jpg", "_tmp/holiday/rocket.jpg", "_tmp/holiday/deep/mdmf-1.tmp", "_tmp/r1/mdmf-x.tmp"),
        *("scan_date=2026-01-02/rocket.jpg", "scan_date=2026-01-02/own.parquet", "scan_date=own/r1/rocket.jpg"),
    ]
    for name in own:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"mine")
    collect(str(output), strays(str(output)))
    assert all((output / name).read_bytes() == b"mine" for name in own)
    assert not list(output.rglob("killed-*"))


# Root may list every folder: a link to itself is one that nobody may.
@pytest.mark.parametrize(
    "closed",
    ["loop", pytest.param("mode", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything"))],
)
@pytest.mark.parametrize("name", ["_runs", "_tmp"])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(output, closed, name, capsys):
    folder = output / name
    folder.mkdir(exist_ok=True)
    if closed == "mode":
        folder.chmod(0)
    else:
        folder.rename(output / "elsewhere")
        folder.symlink_to(name)
    before = files_in(output)
    try:
        with pytest.raises(OSError, match=name):
            strays(str(output))
        assert cli.main(["runs", "gc", str(output), "--older_than_h=0"]) == cli.EXIT_FAILED
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("mdmf runs: ") and name in line
        assert files_in(output) == before
    finally:
        if closed == "mode":
            folder.chmod(0o700)


def test_every_file_under_a_prefix_is_listed(tmp_path):
    for name in ("a/b=1/x", "a/b=1/deep/er/y", "a/b=2", "a/c/z", "b=1/w"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a/b=link").symlink_to("c")
    (tmp_path / "a/b=gone").symlink_to("nowhere")
    (tmp_path / "a/b=1/up").symlink_to("..")  # would be walked round and round

    def listed(prefix):
        return sorted(file.path.removeprefix(f"{tmp_path}/") for file in list_files(str(tmp_path), prefix))

    assert listed("a/b=") == ["a/b=1/deep/er/y", "a/b=1/x", "a/b=2", "a/b=link/z"]
    assert listed("a/b=1/d") == ["a/b=1/deep/er/y"]
    assert (listed("b"), listed("none/"), listed("a/none")) == (["b=1/w"], [], [])
    assert [file.size_bytes for file in list_files(f"{tmp_path}/none", "")] == []
    [file] = list_files(str(tmp_path), "a/b=2")
    status = (tmp_path / "a/b=2").stat()
    assert file[1:] == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"format": 99, "files": []}',
        '{"format": 1, "files": []}',
        '{"format": 1, "files": 7}',
    ],
)
def test_a_manifest_that_is_none_is_named(output, content):
    (output / "_runs" / "odd.json").write_text(content)
    with pytest.raises(ManifestError, match=r"odd\.json"):
        read_manifests(str(output))


@pytest.mark.parametrize("verb", ["latest", "runs list", "runs gc"])
def test_rows_whose_schema_has_another_first_number_are_refused_and_not_read_as_empty(output, capsys, verb):
    path = output / "_runs" / "night-2.json"
    manifest = json.loads(path.read_text())
    major, minor = map(int, SCHEMA_VERSION.split("."))
    for version, status in ((f"{major}.{minor + 1}", cli.EXIT_OK), (f"{major + 1}.0", cli.EXIT_USAGE)):
        path.write_text(json.dumps(manifest | {"schema_version": version}))
        assert cli.main([*verb.split(), str(output)]) == status
    assert f"{path}: its rows are of schema '{major + 1}.0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["run_id", "scan_date", "started_at", "finished_at", "schema_version", "inputs", "counts", "files"]
)
@pytest.mark.parametrize("value", [None, 1.5, ...])
def test_a_manifest_that_lacks_what_is_read_of_one_is_named_and_the_key_is(output, capsys, key, value):
    path = output / "_runs" / "night-2.json"
    manifest = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not ...}))
    assert cli.main(["runs", "list", str(output)]) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert key in line.partition(f"{path}: not a manifest: ")[2]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"skipped": "1"}, "skipped"),
        ({"options": []}, "options"),
        ({"counts": {"status": {"scored": float("nan")}}}, "scored"),
        ({"counts": {"status": {}, "verdict": [1]}}, "verdict"),
    ],
)
def test_a_manifest_of_which_what_is_added_up_is_no_number_is_named(output, changed, key):
    path = output / "_runs" / "night-2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ManifestError, match=rf"night-2\.json: not a manifest: TypeError: {key}: expected"):
        read_manifests(str(output))


@pytest.mark.parametrize(
    "changed", [{"path": "../../etc/passwd"}, {"path": 7}, {"rows": "1"}, {"bytes": None}, {"sha256": None}]
)
def test_a_manifest_that_lists_what_is_no_data_file_is_named(output, changed):
    path = output / "_runs" / "night-2.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0] |= changed
    path.write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=rf"night-2\.json: .*{next(iter(changed))}|is no name of a data file"):
        read_manifests(str(output))


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_stops_at_any_step_promises_nothing_false_and_its_rerun_is_whole(tmp_path, monkeypatch, step, after):
    add(tmp_path, "r", 1, ["/a", "/b", "/c"], scan_date="2026-01-01", num_shards=3)
    run = Run(str(tmp_path), "r", "2026-01-02", at(2).isoformat())
    steps = iter(range(100))

    def stop_at(function):
        def stopping(*args):
            stop = next(steps) == step
            if stop and not after:
                raise KeyboardInterrupt
            function(*args)
            if stop:
                raise KeyboardInterrupt

        return stopping

    with monkeypatch.context() as patch:
        for name in ("publish", "delete"):
            patch.setattr(commit_module, name, stop_at(getattr(commit_module, name)))
        with pytest.raises(KeyboardInterrupt):
            retract(run)
            add(tmp_path, "r", 2, ["/a", "/b", "/c"])
    for manifest in read_manifests(str(tmp_path)):
        assert verify_run(str(tmp_path), manifest) == []
    retract(run)
    add(tmp_path, "r", 3, ["/a", "/b", "/c"])
    [manifest] = read_manifests(str(tmp_path))
    assert files_in(run.output) == ["_runs/r.json", manifest["files"][0]["path"]]
    assert verify_run(str(tmp_path), manifest) == []
