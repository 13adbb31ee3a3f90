"""Show what the columns of a row are.

    mdmf schema                            the data dictionary, as docs/row.md
    mdmf schema --format json              the same for a program
    mdmf schema --format arrow             types as Parquet readers see them
    mdmf schema --format bigquery --table dataset.scores --output gs://bucket/scores > scores.sql

For BigQuery: external tables over an output, views of complete and of newest rows, and a load.
"""

import argparse

from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.schema_text import as_arrow, as_bigquery, as_json, as_markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=["markdown", "json", "bigquery", "arrow"],
        default="markdown",
        help="in which language (default: %(default)s)",
    )
    parser.add_argument("--table", metavar="[PROJECT.]DATASET.NAME", help="bigquery: what to call the table of rows")
    parser.add_argument("--output", metavar="gs://...", help="bigquery: root folder of the dataset")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    if arguments.format == "bigquery":
        if not arguments.table or not arguments.output:
            raise UsageError("--format bigquery needs --table DATASET.NAME and --output gs://BUCKET/FOLDER")
        try:
            print(as_bigquery(arguments.table, arguments.output))
        except ValueError as error:
            raise UsageError(str(error)) from error
        return EXIT_OK
    print({"markdown": as_markdown, "json": as_json, "arrow": as_arrow}[arguments.format]())
    return EXIT_OK
