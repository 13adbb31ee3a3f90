"""The row's schema for those who do not read Arrow: as a page, as JSON, as BigQuery's DDL."""

import json
import re

import pyarrow as pa

from mdmf_ops.schema import PARTITION, SCHEMA, SCHEMA_VERSION

_PARTITION_MEANS = "day (UTC) on which the run started: the folder's name"

_BIGQUERY_TYPES = {"string": "STRING", "float": "FLOAT64", "timestamp[us, tz=UTC]": "TIMESTAMP"}

_TABLE = re.compile(r"[\w-]+(\.[\w-]+){1,2}")
_OUTPUT = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^*?'\"\\`\s/]+)*")

_NEWEST = "PARTITION BY image_uri ORDER BY image_generation DESC NULLS LAST, scanned_at DESC, run_id DESC"


def _logical_type(type_: pa.DataType) -> str:
    """A type as a reader sees it: how text is encoded in the file does not matter to them."""
    if pa.types.is_dictionary(type_):
        return _logical_type(type_.value_type)
    if pa.types.is_struct(type_):
        return f"struct<{', '.join(f'{field.name}: {_logical_type(field.type)}' for field in type_)}>"
    if pa.types.is_map(type_):
        return f"map<{_logical_type(type_.key_type)}, {_logical_type(type_.item_type)}>"
    if pa.types.is_list(type_):
        return f"list<{_logical_type(type_.value_type)}>"
    return {"float": "float32", "timestamp[us, tz=UTC]": "timestamp[us, UTC]"}.get(str(type_), str(type_))


def _bigquery_type(type_: pa.DataType) -> str:
    """The type that BigQuery gives a column of a Parquet file, lists inferred."""
    if pa.types.is_dictionary(type_):
        return _bigquery_type(type_.value_type)
    if pa.types.is_struct(type_):
        return f"STRUCT<{', '.join(f'{field.name} {_bigquery_type(field.type)}' for field in type_)}>"
    if pa.types.is_map(type_):
        key, value = _bigquery_type(type_.key_type), _bigquery_type(type_.item_type)
        return f"STRUCT<key_value ARRAY<STRUCT<key {key}, value {value}>>>"
    if pa.types.is_list(type_):
        return f"ARRAY<{_bigquery_type(type_.value_type)}>"
    return "INT64" if pa.types.is_integer(type_) else _BIGQUERY_TYPES[str(type_)]


def _description(field: pa.Field) -> str:
    return field.metadata[b"description"].decode()


def as_json() -> str:
    """The schema as JSON: version, partition column and fields in their order."""
    fields = [
        {
            "name": field.name,
            "type": _logical_type(field.type),
            "nullable": field.nullable,
            "description": _description(field),
        }
        for field in SCHEMA
    ]
    partition = {"name": PARTITION, "type": "date32", "description": _PARTITION_MEANS}
    return json.dumps({"schema_version": SCHEMA_VERSION, "partition": partition, "fields": fields}, indent=2)


def as_arrow() -> str:
    """The schema as Arrow writes it in Parquet."""
    return SCHEMA.to_string(show_field_metadata=False, show_schema_metadata=False)


def as_markdown() -> str:
    """The data dictionary: `docs/row.md`."""
    rows = [f"| `{PARTITION}` | date32 | no | {_PARTITION_MEANS} |"]
    for field in SCHEMA:
        null = "yes" if field.nullable else "no"
        rows.append(f"| `{field.name}` | {_logical_type(field.type)} | {null} | {_description(field)} |")
    table = "\n".join(rows)
    return f"""\
# The row

One for each image and run, scored or failed; schema {SCHEMA_VERSION}. `mdmf schema --format markdown` wrote this page.

| column | type | may be null | meaning |
|---|---|---|---|
{table}

A new second number of `schema_version` adds columns that may be null: a reader of the first number need not change.
Rows of an older schema lack the newer columns: read files of several days with `union_by_name = true` (DuckDB) or
`mergeSchema` (Spark). What the `declared_` columns say is told in [provenance.md](provenance.md), which codes an error
may have in [operators.md](operators.md#failed-images), and what to ask of rows in [sql.md](sql.md)."""


def as_bigquery(table: str, output: str) -> str:
    """DDL of an output in BigQuery: the files as external tables, views of committed and of newest rows, a load.

    Args:
        table: `dataset.name` or `project.dataset.name`; other names are made of it.
        output: root folder of the dataset, gs://.

    Raises:
        ValueError: a table or output that is none.
    """
    if not _TABLE.fullmatch(table):
        raise ValueError(f"table {table!r}: dataset.name or project.dataset.name")
    if not _OUTPUT.fullmatch(output := output.rstrip("/")):
        raise ValueError(f"output {output!r}: BigQuery reads gs://bucket/folder, and no '*' or quote in its name")
    columns = ",\n".join(
        f"  {field.name} {_bigquery_type(field.type)} OPTIONS (description = {json.dumps(_description(field))})"
        for field in SCHEMA
    )
    files = f"""\
  format = 'PARQUET',
  uris = ['{output}/{PARTITION}=*'],
  hive_partition_uri_prefix = '{output}',
  enable_list_inference = TRUE"""
    return f"""\
-- The rows of every file, those of runs that never became complete among them.
CREATE OR REPLACE EXTERNAL TABLE `{table}_files` (
{columns}
)
WITH PARTITION COLUMNS ({PARTITION} DATE)
OPTIONS (
{files}
);

-- The manifests: which runs are complete, and of which files.
CREATE OR REPLACE EXTERNAL TABLE `{table}_runs` (
  run_id STRING,
  started_at TIMESTAMP,
  finished_at TIMESTAMP,
  inputs INT64,
  skipped INT64,
  files ARRAY<STRUCT<path STRING, `rows` INT64, bytes INT64, sha256 STRING>>
)
OPTIONS (
  format = 'NEWLINE_DELIMITED_JSON',
  uris = ['{output}/_runs/*.json'],
  ignore_unknown_values = TRUE
);

-- The rows of complete runs: what to ask.
CREATE OR REPLACE VIEW `{table}` AS
SELECT scores.*
FROM `{table}_files` AS scores
JOIN (
  SELECT CONCAT('{output}/', file.path) AS file_name FROM `{table}_runs` AS run, UNNEST(run.files) AS file
) AS committed ON scores._FILE_NAME = committed.file_name;

-- The newest row of every image.
CREATE OR REPLACE VIEW `{table}_latest` AS
SELECT * FROM `{table}`
WHERE TRUE
QUALIFY ROW_NUMBER() OVER ({_NEWEST}) = 1;

-- The same as a table of BigQuery's own, which is faster and cheaper to ask. Load it anew after each run.
LOAD DATA OVERWRITE `{table}_loaded` (
{columns}
)
PARTITION BY {PARTITION}
CLUSTER BY image_uri
FROM FILES (
{files}
)
WITH PARTITION COLUMNS ({PARTITION} DATE);

CREATE OR REPLACE VIEW `{table}_loaded_latest` AS
SELECT scores.*
FROM `{table}_loaded` AS scores
WHERE scores.run_id IN (SELECT run.run_id FROM `{table}_runs` AS run)
QUALIFY ROW_NUMBER() OVER ({_NEWEST}) = 1;"""
