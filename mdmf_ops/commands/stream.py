"""Carries out `mdmf stream`."""

import argparse
import contextlib
import json
import logging
import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

from apache_beam.runners.runner import PipelineResult
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1

from mdmf_ops.beam.image import NAMESPACE
from mdmf_ops.beam.stream import local as beam_local
from mdmf_ops.beam.stream.current import current_detector
from mdmf_ops.beam.stream.subscription import SUBSCRIPTION
from mdmf_ops.cli import EXIT_FAILED, EXIT_OK, UsageError, complain
from mdmf_ops.commands.terminal import every
from mdmf_ops.text import told
from pipelines.stream import (
    StreamOptions,
    check,
    detector_of,
    drain_on_signals,
    is_local,
    launch,
    wait,
)

_STATUS_S = 10.0
_CHECK_S = 30.0
"""Of a question to Pub/Sub before the stream starts: for so long it is asked again, and each answer waited for."""

_SHOWN = (
    *("messages_received", "messages_duplicate", "messages_skipped", "rows_written", "verdict_likely_ai"),
    *("publish_to_row_ms", "publish_to_file_ms"),
)


class _InOneLine(logging.Formatter):
    """Of a message that ends in a traceback, as Beam's of a bundle that failed, its first line and its last."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).strip().splitlines()
        return f"{first} {told(more[-1])}" if more else first


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    options = _options(arguments, rest)
    _check(options)
    logging.basicConfig()  # does nothing where Beam has made a handler already
    for handler in logging.getLogger().handlers:
        handler.setFormatter((logging.Formatter if arguments.verbose else _InOneLine)("mdmf stream: %(message)s"))
    logging.getLogger().setLevel(logging.INFO if arguments.verbose else logging.ERROR)
    logging.getLogger("mdmf_ops").setLevel(logging.INFO)
    local = is_local(options)
    try:
        if local:
            drain_on_signals()
        stream, result = launch(options)
        print(f"mdmf stream: {stream.run_id} goes to {stream.output}", file=sys.stderr, flush=True)
        shown = not arguments.json and (sys.stderr.isatty() or arguments.verbose)
        with every(_STATUS_S, partial(_status, result, local)) if shown else contextlib.nullcontext():
            wait(result)
        if local:
            SUBSCRIPTION.close()
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        complain(f"mdmf stream: stopped: {told(f'{type(error).__name__}: {error}')}")
        return EXIT_FAILED
    found = metrics(result, local)
    print(json.dumps({"stream_id": stream.run_id, **found}, indent=2) if arguments.json else _line(found), flush=True)
    return EXIT_OK


def _options(arguments: argparse.Namespace, rest: list[str]) -> StreamOptions:
    ours = {key: value for key, value in vars(arguments).items() if key in StreamOptions([]).get_all_options()}
    return StreamOptions(rest, **ours)


def _check(options: StreamOptions) -> None:
    """Finds out before the stream starts what would stop it."""
    try:
        check(options)
        # The GPU that --accelerator asks for is the workers'.
        current_detector(replace(detector_of(options), device=options.device))
    except Exception as error:  # AssetError, ValueError, OSError, or what a bucket answers
        raise UsageError(str(error)) from error
    _check_pubsub(options)


def _check_pubsub(options: StreamOptions) -> None:
    name = options.subscription or options.topic
    read = options.topic
    patience = {"timeout": _CHECK_S, "retry": Retry(timeout=_CHECK_S)}
    try:
        if options.subscription:
            with pubsub_v1.SubscriberClient() as subscriber:
                found = subscriber.get_subscription(subscription=name, **patience)
            read = "" if found.filter else found.topic  # a filter may keep them apart
        publisher = pubsub_v1.PublisherClient()
        for name in filter(None, (options.topic, options.alert_topic, options.error_topic)):
            publisher.get_topic(topic=name, **patience)
    except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
        raise UsageError(f"Pub/Sub: {name}: {str(error).splitlines()[0]}") from error
    for flag in ("alert_topic", "error_topic"):
        if getattr(options, flag) == read:
            raise UsageError(f"--{flag} {read} is the topic that is read: what is published there would come back")


def metrics(result: PipelineResult, local: bool) -> dict[str, Any]:
    """Our counters and distributions so far: a number, or mean, largest and count of each."""
    if local:
        found = beam_local.metrics()
    else:
        queried = result.metrics().query()
        found = ((m.key.metric, m.result) for kind in ("counters", "distributions") for m in queried[kind])
    values: dict[str, Any] = {}
    for metric, value in found:
        if metric.namespace != NAMESPACE:
            continue
        if isinstance(value, int):
            values[metric.name] = values.get(metric.name, 0) + value
        elif value.count:
            mean = value.sum / value.count
            values[metric.name] = {"mean": round(mean, 1), "max": value.max, "count": value.count}
    return dict(sorted(values.items()))


def _status(result: PipelineResult, local: bool) -> None:
    print(f"{time.strftime('%H:%M:%S')} {_line(metrics(result, local))}", file=sys.stderr, flush=True)


def _line(found: dict[str, Any]) -> str:
    failed = sum(value for name, value in found.items() if name.startswith("images_failed_"))
    told = {name: found[name] for name in _SHOWN if name in found} | {"images_failed": failed}
    return "  ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value['mean']:.0f} (max {value['max']})"
        for name, value in told.items()
    )
