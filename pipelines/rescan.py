"""Batch rescan: folders, globs and objects in, one committed Parquet run out.

    python -m pipelines.rescan --input gs://bucket/photos --output gs://bucket/scores --runner=DataflowRunner ...

`mdmf scan` is the same pipeline on this machine. Flags that are not listed by --help go to Beam, in the form
--flag=value.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from mdmf_ops.beam import Run, ScoreImages, WriteScores
from mdmf_ops.beam.commit import CommitOptions
from mdmf_ops.beam.read import FetchImages, MatchImages
from mdmf_ops.detector import DEFAULT_ALPHA
from mdmf_ops.progress import Progress


class RescanOptions(PipelineOptions):
    """Options of a rescan, the same on every runner."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="SOURCE",
            help="file, folder (every file under it) or glob (** crosses folders), local or URI; may be repeated",
        )
        add_scan_arguments(parser)


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mdmf scan` and `python -m pipelines.rescan` share."""
    parser.add_argument(
        "--output", metavar="DIR", help="root folder of the Parquet dataset; runs are added beside each other"
    )
    parser.add_argument(
        "--run_id",
        help="name of this run (default: the time and a random part); the same id again replaces the run",
    )
    parser.add_argument("--assets", metavar="DIR", help="folder of the detector (default: the embedded micro)")
    parser.add_argument(
        "--alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="call an image likely_ai where its p-value is at most this: about the share of real images that may"
        " be called so in error (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where the network runs; auto takes CUDA where there is one (default: %(default)s)",
    )
    parser.add_argument(
        "--num_shards",
        type=int,
        metavar="N",
        help="number of Parquet files (default: one for 100,000 images)",
    )
    parser.add_argument(
        "--max_failed_fraction",
        type=_fraction,
        metavar="F",
        help="do not commit the run if more than this fraction of the images failed (default: no limit)",
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction from 0 to 1")
    return value


def build(
    pipeline: beam.Pipeline, run: Run, options: RescanOptions, progress: Progress | None = None
) -> beam.PCollection:
    """Adds the rescan to a pipeline; its result is the run's manifest, one element."""
    refs = pipeline | "Match" >> MatchImages(options.input, progress)
    inputs = refs | "CountInputs" >> beam.combiners.Count.Globally()
    rows = (
        refs
        | "Fetch" >> FetchImages()
        | "Score"
        >> ScoreImages(run, assets=options.assets, alpha=options.alpha, device=options.device, progress=progress)
    )
    recorded = {
        name: getattr(options, name)
        for name in ("input", "assets", "alpha", "device", "num_shards", "max_failed_fraction")
    }
    commit_options = CommitOptions(options.max_failed_fraction, recorded)
    return rows | "Write" >> WriteScores(run, inputs, num_shards=options.num_shards, options=commit_options)


def launch(options: RescanOptions, progress: Progress | None = None) -> tuple[Run, PipelineResult]:
    """Builds the rescan and starts it on the runner that the options name.

    Raises:
        ValueError: an option is missing or unfit.
    """
    if not options.input:
        raise ValueError("no input: name at least one file, folder or glob")
    if not options.output:
        raise ValueError("no --output: name the folder of the Parquet dataset")
    options.input = [absolute(source) for source in options.input]
    options.assets = options.assets and absolute(options.assets)
    run = Run.start(absolute(options.output), options.run_id)
    pipeline = beam.Pipeline(options=options)
    build(pipeline, run, options, progress)
    return run, pipeline.run()


def absolute(path: str) -> str:
    """A local path made absolute, since workers need not share our folder; a URI as it is."""
    return str(Path(path).absolute()) if FileSystems.get_scheme(path) is None else path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a rescan to its end (on a service: submits it and waits, unless told otherwise)."""
    options = PipelineOptions(argv if argv is not None else sys.argv[1:]).view_as(RescanOptions)
    _run, result = launch(options)
    result.wait_until_finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
