"""Show, check and clean the runs of an output.

    mdmf runs list scores             every committed run: when, how many images, how many files
    mdmf runs verify scores           read every file again: hashes, row counts; and what belongs to no run
    mdmf runs verify scores --run_id nightly-20260131T020000
                                      only the files of one run
    mdmf runs gc scores               delete what killed runs left, once it is a day old
    mdmf runs gc scores --dry_run     say what that would be

A run that is going on has no manifest yet: its files look like those of a killed one. Let `gc` keep its day. Of a
killed run it leaves the 16 bytes by which a run holds its id, since one that scores for days needs them.
"""

import argparse
import json
from contextlib import suppress
from typing import Any

from rich.table import Table

from mdmf_ops.arguments.shared import bounded
from mdmf_ops.beam.runs import collect, strays, verify_run
from mdmf_ops.cli import EXIT_FAILED, EXIT_OK, UsageError, complain
from mdmf_ops.commands.committed import add_output, committed_runs
from mdmf_ops.commands.terminal import console, plain, waiting
from mdmf_ops.text import told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "verify", "gc"], help="what to do")
    add_output(parser)
    parser.add_argument("--run_id", metavar="ID", help="list, verify: this run alone")
    parser.add_argument(
        "--older_than_h",
        type=bounded(float, 0, 1e6, "a number of hours from 0 to 1,000,000"),
        default=24,
        metavar="H",
        help="gc: leave what was written in the last H hours, which a run may be about to commit (default: 24)",
    )
    parser.add_argument("--dry_run", action="store_true", help="gc: say what would be deleted, and stop")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    if arguments.action == "gc" and arguments.run_id is not None:
        raise UsageError("--run_id: gc deletes what belongs to no run")
    # Of a misspelt name all runs would be whole.
    may_lack = arguments.action != "verify"
    output, manifests = committed_runs(arguments.output, arguments.run_id, may_lack=may_lack)
    if arguments.action == "list":
        return _list(manifests, arguments.json)
    if arguments.action == "verify":
        return _verify(output, manifests, arguments)
    return _collect(output, arguments)


def _list(manifests: list[dict[str, Any]], as_json: bool) -> int:
    runs = [_summary(manifest) for manifest in manifests]
    if as_json:
        print(json.dumps(runs, indent=2))
        return EXIT_OK
    columns = ["run_id", "scan_date", "inputs", "scored", "failed", "skipped", "files", "bytes", "finished_at"]
    table = Table(*columns, box=None, header_style="bold")
    for summary in runs:
        cells = (summary[column] for column in columns)
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else plain(cell) for cell in cells))
    console().print(table if runs else "no committed run")
    return EXIT_OK


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    status = manifest["counts"]["status"]
    return {
        **{key: manifest[key] for key in ("run_id", "scan_date", "started_at", "finished_at", "inputs")},
        "scored": status.get("scored", 0),
        "failed": status.get("failed", 0),
        "skipped": manifest.get("skipped", 0),
        "files": len(manifest["files"]),
        "bytes": sum(file["bytes"] for file in manifest["files"]),
        "detector_id": sorted(manifest["counts"].get("detector_id", {})),
    }


def _verify(output: str, manifests: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    wrong = {}
    with waiting("reading runs") as say:
        for number, manifest in enumerate(manifests, 1):
            say(f"{number} of {len(manifests)}")
            wrong[manifest["run_id"]] = verify_run(output, manifest)
        loose = [] if arguments.run_id else [file.path for file in strays(output)]
    damaged = {run_id: lines for run_id, lines in wrong.items() if lines}
    with suppress(BrokenPipeError):  # the status stands, however much of it is read
        if arguments.json:
            print(json.dumps({"runs": wrong, "strays": loose}, indent=2))
        else:
            # First, and on stderr: what cron's mail is made of is damage, not that all is well.
            for run_id, lines in damaged.items():
                complain("\n  ".join(map(told, (f"{run_id}: damaged", *lines))))
            for run_id in (name for name in wrong if name not in damaged):
                print(told(f"{run_id}: whole"))
            for path in loose:
                print(told(f"in no committed run: {path}"))
    return EXIT_FAILED if damaged else EXIT_OK


def _collect(output: str, arguments: argparse.Namespace) -> int:
    with waiting("looking for files of no run"):
        files = strays(output, arguments.older_than_h * 3600)
        if not arguments.dry_run:
            collect(output, files)
    if arguments.json:
        print(json.dumps([file._asdict() for file in files], indent=2))
    else:
        for file in files:
            print(told(file.path))
        what = "would be deleted" if arguments.dry_run else "deleted"
        print(f"{len(files):,} files, {sum(file.size_bytes for file in files):,} bytes {what}")
    return EXIT_OK
