"""The schema as a page, as JSON and as BigQuery's DDL: complete, fresh, and its views run on real files."""

import json
import re

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlglot
from conftest import ROOT, make_row

from mdmf_ops import cli
from mdmf_ops.beam import Run
from mdmf_ops.beam.commit import CommitOptions, commit, write_shard
from mdmf_ops.schema import SCHEMA, SCHEMA_VERSION
from mdmf_ops.schema_text import as_bigquery, as_json, as_markdown

OUTPUT = "gs://bucket/my-scores"
STATEMENTS = [part.strip() for part in as_bigquery("p-1.ds.scores", OUTPUT).split(";\n")]


def shown(capsys, *arguments):
    assert cli.main(["schema", *arguments]) == 0
    return capsys.readouterr().out


def test_the_page_of_the_row_is_fresh(capsys):
    page = (ROOT / "docs/row.md").read_text()
    assert page == shown(capsys) == shown(capsys, "--format", "markdown"), "mdmf schema > docs/row.md"
    assert all(f"| `{name}` |" in page for name in (*SCHEMA.names, "scan_date"))


def test_json_says_what_the_schema_does(capsys):
    described = json.loads(shown(capsys, "--format", "json"))
    assert described == json.loads(as_json())
    assert described["schema_version"] == SCHEMA_VERSION
    assert [(f["name"], f["nullable"]) for f in described["fields"]] == [(f.name, f.nullable) for f in SCHEMA]
    types = {field["name"]: field["type"] for field in described["fields"]}
    assert types["verdict"] == types["image_uri"] == "string"
    assert (types["mmd2"], types["scanned_at"]) == ("float32", "timestamp[us, UTC]")
    assert types["tiles"] == "list<struct<top_px: int32, left_px: int32, height_px: int32, width_px: int32>>"
    assert types["attributes"] == "map<string, string>"


def test_arrow_says_every_column(capsys):
    lines = shown(capsys, "--format", "arrow").splitlines()
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in SCHEMA.names)


def test_no_cell_of_the_page_breaks_its_table():
    table = [line for line in as_markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}


# BigQuery itself runs nowhere here: its columns and views are parsed as its dialect, and the views run as DuckDB's.


@pytest.mark.parametrize("table", ["scores_files", "scores_loaded"])
def test_bigquery_has_every_column_with_its_type(table):
    [statement] = [s for s in STATEMENTS if re.search(rf"(?:TABLE|OVERWRITE) `p-1\.ds\.{table}` \(\n", s)]
    columns = statement[statement.index("(\n") : statement.index("\n)") + 2]
    [parsed] = sqlglot.parse(f"CREATE TABLE x {columns}", read="bigquery")
    types = {column.name: column.kind.sql("bigquery") for column in parsed.this.expressions}
    assert list(types) == SCHEMA.names
    assert (types["image_uri"], types["verdict"], types["width_px"]) == ("STRING", "STRING", "INT64")
    assert (types["p_value"], types["scanned_at"]) == ("FLOAT64", "TIMESTAMP")
    assert types["patch_evidence"] == "ARRAY<FLOAT64>"
    assert types["tiles"] == "ARRAY<STRUCT<top_px INT64, left_px INT64, height_px INT64, width_px INT64>>"
    assert columns.count("OPTIONS (description = ") == len(SCHEMA)


def test_tables_and_load_name_the_files_of_the_output_and_nothing_else():
    ddl = ";\n".join(STATEMENTS)
    assert set(re.findall(r"'(gs://[^']*)'", ddl)) == {
        *(OUTPUT, f"{OUTPUT}/", f"{OUTPUT}/scan_date=*", f"{OUTPUT}/_runs/*.json")
    }
    made = re.findall(r"(?:TABLE|VIEW|OVERWRITE) `([^`]+)`", ddl)
    names = ("_files", "_runs", "", "_latest", "_loaded", "_loaded_latest")
    assert made == [f"p-1.ds.scores{name}" for name in names]
    assert ddl.count("WITH PARTITION COLUMNS (scan_date DATE)") == 2


def add(output, run_id, day, uris, committed=True, generation=None):
    run = Run(str(output), run_id, f"2026-01-{day:02d}", f"2026-01-{day:02d}T01:00:00+00:00")
    rows = [make_row(uri) | {"run_id": run_id, "image_generation": generation} for uri in uris]
    file = write_shard(run, 0, 1, rows)
    if committed:
        commit(run, len(rows), [file], CommitOptions())
    return rows


@pytest.mark.parametrize("older", [False, True])
def test_the_views_show_complete_runs_and_newest_rows(tmp_path, older):
    add(tmp_path, "one", 1, ["/a", "/b", "/c"])
    add(tmp_path, "two", 2, ["/b", "/d"])
    add(tmp_path, "killed", 3, ["/a", "/e"], committed=False)
    add(tmp_path, "three", 1, ["/o"], generation=9)
    add(tmp_path, "told-late", 2, ["/o"], generation=8)  # it was overwritten
    if older:
        [path] = tmp_path.glob("scan_date=*/one-*.parquet")
        pq.write_table(pq.read_table(path).drop_columns(["c2pa_signature"]), path)
    database = duckdb.connect()
    database.sql("attach ':memory:' as p1; use p1; create schema ds")
    # The external tables, as DuckDB reads the same files.
    database.sql(
        f"create view ds.scores_files as select *, filename as _FILE_NAME from read_parquet("
        f"'{tmp_path}/scan_date=*/*.parquet', hive_partitioning = true, union_by_name = true, filename = true)"
    )
    # One manifest a line, which BigQuery takes.
    lines = [path.read_text() for path in sorted(tmp_path.glob("_runs/*.json"))]
    assert all(len(text.splitlines()) == 1 and json.loads(text)["files"] for text in lines)
    database.sql(f"create view ds.scores_runs as select * from read_ndjson('{tmp_path}/_runs/*.json')")
    database.sql("create view ds.scores_loaded as select * exclude (_FILE_NAME) from ds.scores_files")
    views = [text for text in as_bigquery("ds.scores", OUTPUT).split(";\n") if "VIEW" in text]
    for view in views:
        [translated] = sqlglot.transpile(view.rstrip(";").replace(OUTPUT, str(tmp_path)), "bigquery", "duckdb")
        database.sql(translated)

    def rows(view):
        return sorted(database.sql(f"select image_uri, run_id, scan_date::varchar from ds.{view}").fetchall())

    first, second = "2026-01-01", "2026-01-02"
    newest = [("/a", "one", first), ("/b", "two", second), ("/c", "one", first), ("/d", "two", second)]
    newest.append(("/o", "three", first))
    assert rows("scores") == sorted([*newest, ("/b", "one", first), ("/o", "told-late", second)])
    assert rows("scores_latest") == rows("scores_loaded_latest") == newest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --table DATASET.NAME and --output"),
        (["--table", "scores", "--output", OUTPUT], "table 'scores': dataset.name"),
        (["--table", "d.s`; DROP TABLE x", "--output", OUTPUT], "dataset.name"),
        (["--table", "d.s", "--output", "scores"], "BigQuery reads gs://"),
        (["--table", "d.s", "--output", "gs://b/x'); DROP"], "BigQuery reads gs://"),
        (["--table", "d.s", "--output", "gs://b/x*"], "BigQuery reads gs://"),
    ],
)
def test_names_that_are_none_are_refused_in_one_line(capsys, arguments, message):
    assert cli.main(["schema", "--format", "bigquery", *arguments]) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
