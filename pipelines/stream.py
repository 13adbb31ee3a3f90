"""The live stream: Pub/Sub messages in; alerts, error messages and Parquet by window out.

    python -m pipelines.stream --subscription projects/P/subscriptions/S --output gs://bucket/scores \\
      --alert_topic projects/P/topics/alerts --error_topic projects/P/topics/errors --runner=DataflowRunner ...

`mdmf stream` is the same pipeline on this machine. Flags that are not listed by --help go to Beam, in the form
--flag=value.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import apache_beam as beam
from apache_beam.io.gcp.pubsub import ReadFromPubSub, WriteToPubSub
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, StandardOptions
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from mdmf_ops.arguments.shared import add_service_arguments
from mdmf_ops.arguments.stream import add_stream_arguments
from mdmf_ops.beam.load import DetectorOptions
from mdmf_ops.beam.read import FetchImages
from mdmf_ops.beam.run import Run, dataset_root
from mdmf_ops.beam.storage import absolute
from mdmf_ops.beam.stream.alerts import Alerts, Errors
from mdmf_ops.beam.stream.current import current_id, named_id
from mdmf_ops.beam.stream.live import ReadMessages, ScoreMessages
from mdmf_ops.beam.stream.local import install
from mdmf_ops.beam.stream.once import DUPLICATES, Once
from mdmf_ops.beam.stream.subscription import SUBSCRIPTION, acknowledge
from mdmf_ops.beam.stream.windows import Windows, WriteWindows
from mdmf_ops.cores import usable_cores
from model_assets import AssetError
from pipelines.options import (
    STREAMING_RIGHT_FITTING,
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

_LOCAL_RUNNERS = (direct_runner.BundleBasedDirectRunner, direct_runner.SwitchingDirectRunner)


class StreamOptions(PipelineOptions):
    """Options of a stream, the same on every runner."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        allow_shared_flags(parser)
        add_stream_arguments(parser)
        add_service_arguments(parser)


def is_local(options: StreamOptions) -> bool:
    """Whether the options name the runner of this machine, in whichever of the ways that Beam takes."""
    return isinstance(named_runner(options), _LOCAL_RUNNERS)


def _windows_of(options: StreamOptions) -> Windows:
    """The windows that the options name. Raises ValueError for unfit ones."""
    # The flag's default is a rescan's: Beam shows no flag of which two pipelines in one process have another default.
    return Windows(options.window_s, 1 if options.num_shards is None else options.num_shards)


def detector_of(options: StreamOptions) -> DetectorOptions:
    """The detector that the options name. Raises ValueError for unfit ones."""
    assets = options.assets and absolute(options.assets)
    return DetectorOptions(
        assets,
        options.alpha,
        scoring_device(options),
        options.precision,
        check_s=options.pointer_s,
        threads=usable_cores() if is_local(options) else None,  # here, the stream is one process
    )


def check(options: StreamOptions) -> None:
    """Finds out before a stream starts what would stop it.

    Raises:
        ValueError: an option is missing or unfit.
    """
    # As of a variable that is not set: no alerts, or any file under the working folder, is not what was meant.
    for flag in ("subscription", "topic", "alert_topic", "error_topic", "assets", "local_root", "c2pa_trust"):
        if getattr(options, flag) == "":
            raise ValueError(f"--{flag} is empty: name what it is for, or leave it out")
    if (options.subscription is None) == (options.topic is None):
        raise ValueError("--subscription is missing: name where messages come from (or a --topic, for a trial)")
    if not options.output:
        raise ValueError("--output is missing: name the folder of the Parquet dataset")
    dataset_root(options.output)
    _windows_of(options)
    detector_of(options)
    trust_anchors(options)


def build(messages: beam.PCollection, stream: Run, options: StreamOptions) -> beam.PCollection:
    """Adds the stream to PubsubMessage elements; its result is the ids of the messages that are dealt with."""
    windows = _windows_of(options)
    hints = scoring_hints(options)
    detector = detector_of(options)
    # With GPUs asked for, the workers that remember are others than those that score.
    detector_id = partial(named_id if options.accelerator else current_id, detector)
    read = messages | "Read" >> ReadMessages(options.local_root)
    local = is_local(options)
    once = read.refs | "Once" >> Once(detector_id, options.horizon_s, in_process=local)
    windowed = once.refs | "Window" >> windows.into()
    if options.accelerator:
        # What parses and remembers must not be fused into workers with a GPU.
        windowed = windowed | "SpreadRefs" >> beam.Reshuffle()
    scoring = ScoreMessages(stream, detector, None if local else options.batch_wait_s, trust_anchors(options))
    scored = (
        windowed
        | "Fetch" >> FetchImages(detector.limits).with_resource_hints(**hints)
        | "Score" >> scoring.with_resource_hints(**hints)
    )
    if options.alert_topic:
        alerts = scored | "Alerts" >> Alerts(stream, windows, options.verdicts.split(","))
        _ = alerts | "PublishAlerts" >> WriteToPubSub(options.alert_topic, with_attributes=True)
    if options.error_topic:
        errors = scored | "Errors" >> Errors()
        _ = errors | "PublishErrors" >> WriteToPubSub(options.error_topic, with_attributes=True)
    written = scored | "Write" >> WriteWindows(stream, windows)
    ids = [written, read.skipped, once[DUPLICATES]]
    in_global = [pc | f"Unwindow{i}" >> beam.WindowInto(beam.window.GlobalWindows()) for i, pc in enumerate(ids)]
    return in_global | "DealtWith" >> beam.Flatten()


def launch(options: StreamOptions) -> tuple[Run, PipelineResult]:
    """Builds the stream and starts it on the runner that the options name.

    Raises:
        ValueError: an option is missing or unfit.
    """
    check(options)
    options.local_root = options.local_root and absolute(options.local_root)
    options.view_as(StandardOptions).streaming = True
    if options.accelerator:
        options.view_as(DebugOptions).add_experiment(STREAMING_RIGHT_FITTING)
    # Each start has a name of its own, since it counts its panes anew.
    started = Run.start(options.output)
    stream = replace(started, run_id=f"stream-{started.run_id}")
    local = is_local(options)
    # Beam's default runner would first have another one downloaded, for as long as that takes.
    pipeline = beam.Pipeline(direct_runner.BundleBasedDirectRunner() if local else None, options=options)
    messages = pipeline | "Messages" >> ReadFromPubSub(options.topic, options.subscription, with_attributes=True)
    done = build(messages, stream, options)
    if local:
        install(options.batch_wait_s)
        _ = done | "Acknowledge" >> beam.Map(acknowledge)
    return stream, pipeline.run()


def drain_on_signals() -> None:
    """On the local runner: SIGTERM and SIGINT end the stream once what it took in is written; a second one at once.

    Called before `launch`: the stream takes messages in before that returns.
    """

    def drain(_number: int, _frame: object) -> None:
        SUBSCRIPTION.drain()
        on_signals(signal.SIG_DFL)

    def on_signals(handler) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)

    on_signals(drain)


def wait(result: PipelineResult) -> None:
    """Waits for the end of a stream. A drain on Dataflow, or an update that takes it over, is one: Beam says failed."""
    try:
        result.wait_until_finish()
    except Exception:
        if result.state not in (PipelineState.DRAINED, PipelineState.UPDATED):
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a stream until it is told to end (on a service: submits it and waits, unless told otherwise)."""
    show_beams_log()
    options = read_options(StreamOptions, argv if argv is not None else sys.argv[1:])
    try:
        check(options)
        check_detector(options)
    except (ValueError, AssetError) as error:
        refuse(str(error))
    if is_local(options):
        drain_on_signals()
    _stream, result = launch(options)
    wait(result)
    SUBSCRIPTION.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
