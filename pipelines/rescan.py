"""Batch rescan: folders, globs, lists and tar shards in, one committed Parquet run out.

    python -m pipelines.rescan --input gs://bucket/photos --output gs://bucket/scores --runner=DataflowRunner ...

The nightly form skips what an earlier run settled: add --skip_unchanged gs://bucket/scores.

`mdmf scan` is the same pipeline on this machine. Flags that are not listed by --help go to Beam, in the form
--flag=value.
"""

import argparse
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from mdmf_ops.arguments.scan import add_scan_arguments, moment_of
from mdmf_ops.arguments.shared import add_service_arguments
from mdmf_ops.beam import FetchImages, Filters, MatchImages, Run, ScoreImages, SkipUnchanged, WriteScores
from mdmf_ops.beam.commit import CommitOptions
from mdmf_ops.beam.run import dataset_root
from mdmf_ops.beam.storage import absolute
from mdmf_ops.progress import Progress
from model_assets import AssetError
from pipelines.options import (
    allow_shared_flags,
    check_detector,
    named_runner,
    read_options,
    refuse,
    scoring_device,
    scoring_hints,
    show_beams_log,
    trust_anchors,
)


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


def filters_of(options: RescanOptions) -> Filters:
    """The filters that the options name."""
    return Filters(
        suffixes=tuple(options.suffix),
        min_bytes=options.min_bytes,
        max_bytes=options.max_bytes,
        changed_since=options.changed_since and moment_of(options.changed_since),
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
