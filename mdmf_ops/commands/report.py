"""Make one page of HTML from the rows of an output: what was found, how often, where, and how far to believe it.

    mdmf report scores                              report.html, of the newest row of every image
    mdmf report scores --page week.html --run_id nightly-17
    mdmf report gs://bucket/scores --thumbnails     the images are read again, and small copies put into the page
    mdmf report scores --json                       counts, strata and warnings for a script

The page needs neither a server nor a network and can be sent as it is. It shows each image's map of evidence; the
image itself is in the page only with --thumbnails: without it nothing is read but rows, and no image is copied.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mdmf_ops.beam.reread import reread
from mdmf_ops.beam.runs import find_rows, latest_rows
from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.committed import add_output, committed_runs
from mdmf_ops.commands.terminal import console, plain, progress_bar
from mdmf_ops.errors import ImageError
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.whole import decode_whole
from mdmf_ops.report.page import Report, make_page, row_key, summary
from mdmf_ops.report.tally import LIST_COLUMNS, Row, Tally
from mdmf_ops.report.thumbnails import thumbnail

MAX_GALLERY = 100
_MAX_LIST = 50_000
_READS_AT_ONCE = 2
"""Images in memory at a time: each may be as large as the limits allow."""
_STEP_ROWS = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument(
        "--page", type=Path, default=Path("report.html"), metavar="FILE", help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--run_id", help="the rows of this run, and all of them (default: the newest row of every image)"
    )
    parser.add_argument(
        "--thumbnails",
        action="store_true",
        help="read the images of the gallery again and put small copies into the page: whoever gets the page sees them",
    )
    parser.add_argument(
        "--gallery",
        type=int,
        default=24,
        metavar="N",
        help=f"images with a map in each section, up to {MAX_GALLERY} (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=10_000,
        metavar="N",
        help=f"images in the list, smallest p-values first, up to {_MAX_LIST:,} (default: 10,000); counts and charts"
        " are over all",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too, and nothing else")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    for name, value, most in (("gallery", arguments.gallery, MAX_GALLERY), ("limit", arguments.limit, _MAX_LIST)):
        if not 1 <= value <= most:
            raise UsageError(f"--{name} {value}: from 1 to {most:,}")
    try:
        report = _collect(arguments)
        page = make_page(report)
        _write(arguments.page, page)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.json:
        print(json.dumps(summary(report) | {"page": str(arguments.page)}, indent=2))
    else:
        _show(report, arguments.page, len(page))
    return EXIT_OK


def _collect(arguments: argparse.Namespace) -> Report:
    output, manifests = committed_runs(arguments.output, arguments.run_id)
    tally = Tally(arguments.limit, arguments.gallery)
    rows = sum(file["rows"] for manifest in manifests for file in manifest["files"])
    with progress_bar("reading rows") as bar:
        # A window of a stream has several rows of an image that was uploaded again.
        if arguments.run_id:
            found = find_rows(output, None, manifests, LIST_COLUMNS)
        else:
            found = latest_rows(output, LIST_COLUMNS, manifests)
        for done, row in enumerate(found):
            tally.add(row)
            if done % _STEP_ROWS == 0:
                bar(done, rows)
        bar(rows, rows)
    shown = {row_key(row): row["row_id"] for section in tally.sections.values() for row in section.rows()}
    whole = {row_key(row): row for row in find_rows(output, set(shown.values()), manifests) if row_key(row) in shown}
    full_rows = {key: whole[key] for key in shown if key in whole}
    thumbnails = _thumbnails(full_rows) if arguments.thumbnails else None
    return Report(output, manifests, tally, full_rows, thumbnails)


def _thumbnails(rows: dict[tuple, Row]) -> dict[tuple, str]:
    """Small copies of the images by row, or why there is none."""
    small: dict[tuple, str] = {}
    with progress_bar("reading images") as bar, ThreadPoolExecutor(_READS_AT_ONCE, "mdmf-read") as pool:
        for done, (key, found) in enumerate(zip(rows, pool.map(_thumbnail, rows.values()), strict=True), 1):
            small[key] = found
            bar(done, len(rows))
    return small


def _thumbnail(row: dict[str, Any]) -> str:
    limits = Limits()
    image = reread(row, limits)
    try:
        if image.error is not None:
            raise image.error
        return thumbnail(decode_whole(image.content, limits))
    except ImageError as error:
        return f"The image is not shown: {error}"


def _write(path: Path, page: str) -> None:
    """Writes the page whole, or leaves what was there; a link stays one, and so does a pipe or a device."""
    if path.exists() and not path.is_file():
        path.write_text(page, "utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _show(report: Report, page: Path, characters: int) -> None:
    figures = summary(report)
    screen = console()
    names = ("images", "likely_ai", "uncertain", "likely_real", "failed")
    screen.print("  ".join(f"{name} {figures[name]:,}" for name in names))
    for stratum in figures["strata"]:
        if stratum["warned"]:
            name = stratum["name"] if stratum["kind"] == "all" else f"{stratum['kind']} {stratum['name']}"
            rate = f"{stratum['rate']:.1%} of {stratum['scored']:,} flagged, far beyond alpha"
            screen.print(f"warning: {plain(name)}: {rate}", soft_wrap=True)
    screen.print(f"{plain(str(page))} ({characters / 1e6:.1f} MB): open it in any browser", soft_wrap=True)
