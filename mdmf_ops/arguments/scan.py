"""Score images into Parquet: one row for each, scored or failed.

    mdmf scan photos --output scores                      every file under a folder
    mdmf scan 'photos/**/*.jpg' one.png --output scores   globs and files
    mdmf scan gs://bucket/photos --output gs://bucket/scores
    mdmf scan gs://bucket/photos --output gs://bucket/scores --skip_unchanged gs://bucket/scores
    mdmf scan --input_list wanted.csv --list_column image shards/000.tar --output scores

The rows of a run count once scores/_runs/RUN_ID.json is there. The same --run_id again replaces the run.
A name that ends in .tar is a shard: every file in it is an image, shard.tar#name.
Flags that are not listed here go to Apache Beam, in the form --flag=value.
"""

import argparse
import datetime
import math

from mdmf_ops.arguments.shared import add_scoring_arguments, bounded

TAKES_BEAM_FLAGS = True

_FRACTION = bounded(float, 0, 1, "a fraction from 0 to 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="*", metavar="INPUT", help="file, folder or glob, local or gs://")
    add_scan_arguments(parser)
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="images here at once (default: one a core)")
    parser.add_argument("--dry_run", action="store_true", help="say what would be read and written, and stop")
    parser.add_argument("--json", action="store_true", help="print the run's manifest as JSON and nothing else")
    parser.add_argument("--verbose", action="store_true", help="show Beam's log and whole tracebacks")


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mdmf scan` and `python -m pipelines.rescan` share."""
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="root folder of the Parquet dataset, local or gs://; runs are added beside each other",
    )
    parser.add_argument(
        "--run_id",
        help="name of this run (default: the time and a random part); the same id again replaces the run",
    )
    parser.add_argument(
        "--assets", metavar="DIR", help="folder of the detector, local or gs:// (default: the embedded micro)"
    )
    add_scoring_arguments(parser)
    parser.add_argument(
        "--skip_unchanged",
        metavar="PREVIOUS_OUTPUT",
        help="do not read an image again whose newest row in this output's committed runs has the same generation"
        " (a local file: size and time) and detector; may be --output itself",
    )
    parser.add_argument(
        "--num_shards",
        type=bounded(int, 1, math.inf, "a whole number from 1 on"),
        metavar="N",
        help="number of Parquet files, at most (default: one for 100,000 images)",
    )
    parser.add_argument(
        "--max_failed_fraction",
        type=_FRACTION,
        metavar="F",
        help="do not commit the run if more than this fraction of the images, those that are skipped among them, failed"
        " (default: no limit)",
    )

    sources = parser.add_argument_group("which images")
    sources.add_argument(
        "--input_list",
        action="append",
        default=[],
        metavar="FILE",
        help="list of images, one URI a line, or a column of a .csv or .parquet; may be repeated",
    )
    sources.add_argument(
        "--list_column", default="uri", metavar="NAME", help="of the .csv and .parquet lists (default: %(default)s)"
    )
    sources.add_argument(
        "--suffix",
        action="append",
        default=[],
        metavar=".EXT",
        help="only names that end so, in any case; may be repeated (default: every name)",
    )
    sources.add_argument("--min_bytes", type=int, metavar="N", help="only images of at least this size")
    sources.add_argument("--max_bytes", type=int, metavar="N", help="only images of at most this size")
    sources.add_argument(
        "--changed_since",
        type=_moment,
        metavar="TIME",
        help="only images written at this time or later: YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS+00:00; UTC if it says none",
    )
    sources.add_argument(
        "--sample",
        type=_FRACTION,
        metavar="F",
        help="only this fraction of the images, chosen by URI: the same ones each time with the same --sample_seed",
    )
    sources.add_argument("--sample_seed", type=int, default=0, metavar="N", help="another number, another sample")


def _moment(text: str) -> str:
    """Checks a time; kept as text, since options travel as JSON."""
    moment_of(text)
    return text


def moment_of(text: str) -> datetime.datetime:
    """The time that --changed_since says. Raises ArgumentTypeError where it says none."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a time like 2026-01-31 or 2026-01-31T22:00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
