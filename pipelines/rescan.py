"""Batch rescan: folders, globs, lists and tar shards in, one committed Parquet run out.

    python -m pipelines.rescan --input gs://bucket/photos --output gs://bucket/scores --runner=DataflowRunner ...

The nightly form skips what an earlier run settled: add --skip_unchanged gs://bucket/scores.

`mdmf scan` is the same pipeline on this machine. Flags that are not listed by --help go to Beam, in the form
--flag=value.
"""

import argparse
import datetime
import math
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from mdmf_ops.beam import FetchImages, Filters, MatchImages, Run, ScoreImages, SkipUnchanged, WriteScores
from mdmf_ops.beam.commit import CommitOptions
from mdmf_ops.beam.run import dataset_root
from mdmf_ops.beam.storage import absolute
from mdmf_ops.progress import Progress
from model_assets import AssetError
from pipelines.options import (
    add_scoring_arguments,
    add_service_arguments,
    allow_shared_flags,
    bounded,
    check_detector,
    named_runner,
    read_options,
    refuse,
    scoring_device,
    scoring_hints,
    show_beams_log,
    trust_anchors,
)

_FRACTION = bounded(float, 0, 1, "a fraction from 0 to 1")


class RescanOptions(PipelineOptions):
    """Options of a rescan, the same on every runner."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        allow_shared_flags(parser)
        parser.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="SOURCE",
            help="file, folder (every file under it) or glob (** crosses folders), local or gs://; may be repeated",
        )
        add_scan_arguments(parser)
        add_service_arguments(parser)


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
    _aware(text)
    return text


def _aware(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a time like 2026-01-31 or 2026-01-31T22:00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def filters_of(options: RescanOptions) -> Filters:
    """The filters that the options name."""
    return Filters(
        suffixes=tuple(options.suffix),
        min_bytes=options.min_bytes,
        max_bytes=options.max_bytes,
        changed_since=options.changed_since and _aware(options.changed_since),
        sample=options.sample,
        seed=options.sample_seed,
        output=options.output and dataset_root(options.output),
    )


def build(
    pipeline: beam.Pipeline, run: Run, options: RescanOptions, progress: Progress | None = None
) -> beam.PCollection:
    """Adds the rescan to a pipeline; its result is the run's manifest, one element."""
    refs = pipeline | "Match" >> MatchImages(
        options.input,
        progress,
        lists=options.input_list,
        column=options.list_column,
        filters=filters_of(options),
        complete_lists=options.skip_unchanged is not None,
    )
    skipped = None
    if options.skip_unchanged is not None:
        split = refs | "SkipUnchanged" >> SkipUnchanged(options.skip_unchanged, run, options.assets, progress)
        refs, skipped = split.changed, split.skipped
    hints = scoring_hints(options)
    scoring = ScoreImages(
        run,
        assets=options.assets,
        alpha=options.alpha,
        device=scoring_device(options),
        precision=options.precision,
        trust_anchors=trust_anchors(options),
        progress=progress,
    )
    rows = (
        refs
        # What lists and skips must not be fused into workers with a GPU.
        | "SpreadRefs" >> beam.Reshuffle()
        | "Fetch" >> FetchImages().with_resource_hints(**hints)
        | "Score" >> scoring.with_resource_hints(**hints)
    )
    # What the run was asked to do, but for its place and name.
    ours = options.get_all_options(current_only=True)
    recorded = {name: getattr(options, name) for name in ours if name not in ("output", "run_id")}
    commit_options = CommitOptions(options.max_failed_fraction, recorded)
    return rows | "Write" >> WriteScores(
        run, refs, skipped=skipped, num_shards=options.num_shards, options=commit_options
    )


def prepare(options: RescanOptions) -> Run:
    """The run that the options ask for; names in them become absolute.

    Raises:
        ValueError: an option is missing or unfit.
    """
    if not options.input and not options.input_list:
        raise ValueError("no input: name at least one file, folder, glob or list")
    if not options.output:
        raise ValueError("no --output: name the folder of the Parquet dataset")
    scoring_device(options)
    options.input = [absolute(source) for source in options.input]
    options.input_list = [absolute(path) for path in options.input_list]
    if options.skip_unchanged is not None:
        options.skip_unchanged = dataset_root(options.skip_unchanged)
    if options.assets is not None:
        options.assets = absolute(options.assets)
    trust_anchors(options)
    return Run.start(options.output, options.run_id)


def launch(
    run: Run, options: RescanOptions, progress: Progress | None = None, runner: PipelineRunner | None = None
) -> PipelineResult:
    """Builds a rescan that is prepared and starts it, on the runner that the options name if none is given."""
    if runner is None and isinstance(named_runner(options), SwitchingDirectRunner):
        runner = FnApiRunner()  # Beam would first have another one downloaded, for as long as that takes
    pipeline = beam.Pipeline(runner, options=options)
    build(pipeline, run, options, progress)
    return pipeline.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a rescan to its end (on a service: submits it and waits, unless told otherwise)."""
    show_beams_log()
    options = read_options(RescanOptions, argv if argv is not None else sys.argv[1:])
    try:
        run = prepare(options)
        check_detector(options)
    except (ValueError, AssetError) as error:
        refuse(str(error))
    launch(run, options).wait_until_finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
