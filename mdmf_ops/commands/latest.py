"""Show the newest row of every image over all committed runs of an output.

    mdmf latest scores                    a table of the first images, and counts over all
    mdmf latest scores --verdict likely_ai --limit 100
    mdmf latest scores --json             every image, one JSON object a line
    mdmf latest scores --sql              the same as a query for DuckDB

An image that was deleted since keeps its last row: a row says what was found, not what is there. One that the
newest run to read it could not score is failed, whatever an earlier run found.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from mdmf_ops.beam.run import dataset_root
from mdmf_ops.beam.runs import latest_rows, latest_sql
from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.committed import add_output, committed_runs
from mdmf_ops.commands.terminal import console, plain, waiting
from mdmf_ops.schema import VERDICTS

_SAID_IMAGES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument("--verdict", choices=VERDICTS, help="only images of this verdict")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="rows of the table, 0 for all (default: %(default)s)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print every image as a line of JSON")
    form.add_argument("--sql", action="store_true", help="print the query for DuckDB and run nothing")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    if arguments.limit < 0:
        raise UsageError(f"--limit {arguments.limit}: 0 for all, or how many rows to show")
    if arguments.sql:
        try:
            print(latest_sql(dataset_root(arguments.output), arguments.verdict))
        except ValueError as error:
            raise UsageError(str(error)) from error
        return EXIT_OK
    output, manifests = committed_runs(arguments.output)
    found = latest_rows(output, manifests=manifests)
    rows = (row for row in found if arguments.verdict in (None, row["verdict"]))
    if arguments.json:
        for row in rows:
            print(json.dumps(row | {"scanned_at": row["scanned_at"].isoformat()}))
    else:
        _show(rows, arguments.limit)
    return EXIT_OK


def _show(rows: Iterator[dict[str, Any]], limit: int) -> None:
    table = Table("image", "verdict", "p-value", "scanned at", "run", box=None, header_style="bold")
    counts: Counter[str] = Counter()
    with waiting("reading rows") as say:
        for images, row in enumerate(rows, 1):
            found = row["verdict"] or f"failed: {row['error_code']}"
            counts[found] += 1
            if not limit or table.row_count < limit:
                p_value = "" if row["p_value"] is None else f"{row['p_value']:.4f}"
                moment = f"{row['scanned_at']:%Y-%m-%d %H:%M}"
                table.add_row(plain(row["image_uri"]), found, p_value, moment, row["run_id"])
            if images % _SAID_IMAGES == 0:
                say(f"{images:,} images")
    screen = console()
    screen.print(table)
    images = sum(counts.values())
    if images > table.row_count:
        screen.print(f"... and {images - table.row_count:,} more: --limit 0 or --json shows all")
    for found, count in sorted(counts.items()):
        screen.print(f"{found:24} {count:,}")
    screen.print(f"{'images':24} {images:,}")
