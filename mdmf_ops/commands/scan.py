"""Carries out `mdmf scan`."""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from mdmf_ops.beam.ahead import AT_ONCE
from mdmf_ops.beam.commit import ManifestError, read_manifest
from mdmf_ops.beam.forked import can_fork, forked_workers
from mdmf_ops.beam.image import ImageRef
from mdmf_ops.beam.lists import read_list
from mdmf_ops.beam.load import local_copy, read_id
from mdmf_ops.beam.previous import Seen, committed_files, is_unchanged, read_seen
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.runs import find_rows
from mdmf_ops.beam.shards import is_shard
from mdmf_ops.beam.sources import file_of, list_images, list_named
from mdmf_ops.beam.storage import absolute, exists, gcs, is_gcs
from mdmf_ops.cli import EXIT_FAILED, EXIT_OK, UsageError, complain, is_among
from mdmf_ops.commands.terminal import console, every, plain
from mdmf_ops.cores import usable_cores
from mdmf_ops.detector import Detector
from mdmf_ops.detector.detector import device_name, pick_device
from mdmf_ops.heap import keep_no_free_memory
from mdmf_ops.progress import Progress
from mdmf_ops.text import told
from model_assets import AssetError
from pipelines.rescan import RescanOptions, filters_of, launch, prepare

_LARGEST_LISTING = 40
"""A run of at most this many images is shown image by image."""

_LOOK_S = 0.2
_OF_A_DEAD_WORKER = "Channel closed prematurely"
"""All that Beam says of one."""

_CAUSE = re.compile(r"^(?:RuntimeError: )?(?:\w+\.)*(\w*(?:Error|Exception)|(?<=\.)\w+): (.+)$", re.MULTILINE)
"""Line of a traceback that names an error: by its module, if it is none of Python's own."""


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    options = _options(arguments, rest)
    scan = _check(options)
    if arguments.dry_run:
        try:
            return _dry_run(scan, options, arguments.json)
        except (ValueError, ManifestError) as error:
            raise UsageError(str(error)) from error
    logging.getLogger().setLevel(logging.INFO if arguments.verbose else logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        progress = runner = None
        if not is_among("--runner", rest):  # workers of another machine have no folder of this one to count in
            keep_no_free_memory()  # where this process scores too, each batch of images keeps it
            progress = Progress(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdmf-")))
            runner = _workers(options, arguments, stack)
        # What a supervisor sends, once workers that would inherit this are there: as ^C, it ends them and clears up.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        show = progress is not None and sys.stderr.isatty() and not arguments.json
        with _watched(progress) if show else contextlib.nullcontext():
            try:
                # Beam's threads print a traceback of whatever fails in them.
                with contextlib.nullcontext() if arguments.verbose else contextlib.redirect_stderr(io.StringIO()):
                    launch(scan, options, progress, runner).wait_until_finish()
            except Exception as error:
                why = _plain(error)
                if why.endswith(": KeyboardInterrupt"):  # as a worker in this process tells of it
                    raise KeyboardInterrupt from error
                if arguments.verbose:
                    traceback.print_exc()
                complain(f"mdmf scan: the run is not complete: {told(why)}")
                return EXIT_FAILED
    manifest = read_manifest(scan)
    if arguments.json:
        print(json.dumps(manifest, indent=2))
    else:
        _show(scan, manifest)
    if not manifest["inputs"]:  # as by a suffix that is misspelt; a source in which nothing is fails the run
        complain("mdmf scan: no image was scanned: the filters left all of them out, or lists and shards are empty")
    return EXIT_OK


def _options(arguments: argparse.Namespace, rest: list[str]) -> RescanOptions:
    """Pipeline options: ours from the command line, a local runner on every core unless another is named."""
    workers = arguments.workers or usable_cores()
    if workers < 0:
        raise UsageError(f"--workers {workers}: 0 for one a core, or a number of images at once")
    defaults: dict[str, Any] = {}
    if not is_among("--runner", rest):
        for option in ("--direct_num_workers", "--direct_running_mode"):
            if is_among(option, rest):
                raise UsageError(f"{option}: mdmf scan starts its workers itself: --workers N says how many")
        defaults = {"runner": "FnApiRunner", "direct_num_workers": workers}
    known = RescanOptions([]).get_all_options()
    ours = {key: value for key, value in vars(arguments).items() if key in known}
    return RescanOptions(rest, **defaults, **ours)


def _workers(options: RescanOptions, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> FnApiRunner:
    """Beam's local runner with its workers: forks of this process, where they may be."""
    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers == 1:
        return FnApiRunner()
    if pick_device(arguments.device).type == "cpu" and can_fork():
        return FnApiRunner(default_environment=stack.enter_context(forked_workers(quiet=not arguments.verbose)))
    direct.direct_running_mode = "multi_processing"
    if not {"", str(Path.cwd())} & set(sys.path):
        # Beam starts them by `python -m`: a file in the working folder could stand in for a module there.
        os.environ["PYTHONSAFEPATH"] = "1"
    return FnApiRunner()


def _check(options: RescanOptions) -> Run:
    """The run; finds out before any worker starts what would stop all of them."""
    _check_utf8(options)
    try:
        scan = prepare(options)
        pick_device(options.device)
        torch.set_num_threads(1)  # as in each worker
        with local_copy(options.assets) as folder:
            Detector.load(folder, alpha=options.alpha, device="cpu")  # the memory of a GPU is the workers'
        previous = options.skip_unchanged
        if any(map(is_gcs, (*options.input, *options.input_list, scan.output, previous or ""))):
            gcs()
        # What lies in a bucket is left to the workers: this machine need not have access.
        for source in options.input:
            if not is_gcs(source):
                next(list_images(source))
        for path in options.input_list:
            if not is_gcs(path):
                next(read_list(path, options.list_column), None)
        if previous is not None and not is_gcs(previous):
            next(committed_files(previous, scan), None)
    except (OSError, ValueError, AssetError, ManifestError) as error:
        raise UsageError(str(error)) from error
    return scan


def _check_utf8(options: RescanOptions) -> None:
    """Raises UsageError for a name that cannot travel to workers, or into a manifest, as text."""
    sources = (*options.input, *options.input_list)
    for name in filter(None, (*sources, options.output, options.skip_unchanged, options.assets, options.c2pa_trust)):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            way = f"say {Path(absolute(name)).as_uri()}" if name in sources and not is_gcs(name) else "rename it"
            raise UsageError(f"{name}: the name is not UTF-8; {way}") from error


def _dry_run(scan: Run, options: RescanOptions, as_json: bool) -> int:
    listed = {ref.uri: ref for ref in _inputs(options)}
    seen = _seen(options.skip_unchanged, scan, listed)
    detector_id = read_id(options.assets)
    sizes = [ref.size_bytes for uri, ref in listed.items() if not is_unchanged(ref, seen[uri], detector_id)]
    plan = {
        "images": len(sizes),
        "skipped": len(listed) - len(sizes),
        "bytes": sum(size or 0 for size in sizes),
        "of_unknown_size": sizes.count(None),
        "files": f"{scan.output}/{scan.data_file(0, 1).rsplit('-', 3)[0]}-*.parquet",
        "manifest": scan.manifest_path,
        "detector_id": detector_id,
        "device": device_name(pick_device(options.device)),
        "replaces_a_run": exists(scan.manifest_path),
    }
    if as_json:
        print(json.dumps(plan, indent=2))
    else:
        for key, value in plan.items():
            print(f"{key:16} {value}")
    return EXIT_OK


def _inputs(options: RescanOptions) -> Iterator[ImageRef]:
    """What the run would list; of an image that is named twice, what a listing says comes last."""
    filters, skips = filters_of(options), options.skip_unchanged is not None
    for path in options.input_list:
        files = defaultdict(list)
        for ref in read_list(path, options.list_column):
            files[file_of(ref)].append(ref)  # the images of a shard together: it is listed once
        ask = skips or filters.ask_more_than_the_name
        requests = ask and all(is_gcs(uri) and not is_shard(uri) for uri in files)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for refs in (pool.map if requests else map)(partial(_complete, ask), files.values()):
                yield from filter(filters.admit, refs)
    for source in options.input:
        yield from filter(filters.admit, list_images(source))


def _complete(ask: bool, refs: list[ImageRef]) -> list[ImageRef]:
    """As the run does it; and a local one for its size, which is no request."""
    ask = ask or not is_gcs(refs[0].uri)
    return [image for ref in refs for image in list_named(ref, ask)]


def _seen(previous: str | None, scan: Run, uris: Container[str]) -> dict[str, list[Seen]]:
    """What the runs in an earlier output say of these images."""
    seen = defaultdict(list)
    for path in () if previous is None else committed_files(previous, scan):
        for uri, row in read_seen(path):
            if uri in uris:
                seen[uri].append(row)
    return seen


@contextlib.contextmanager
def _watched(progress: Progress) -> Iterator[None]:
    """Shows images done, rate and time left on the terminal while the run goes on."""
    columns = (
        *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn()),
    )
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        bar.add_task("starting workers", total=None, rate="")
        with every(_LOOK_S, partial(_look, progress, bar)):
            yield


def _look(progress: Progress, bar: Bar) -> None:
    done, listed, skipped = map(progress.total, ("done", "listed", "skipped"))
    [task] = bar.tasks
    # Scoring starts when listing has ended: until then the total still grows.
    bar.update(
        task.id,
        completed=min(done, listed - skipped),
        total=listed - skipped if done else None,
        description="scoring" if done else f"listing: {listed} images" if listed else "starting workers",
        rate=f"{task.speed:.1f} images/s" if done and task.speed else "",
    )


def _plain(error: Exception) -> str:
    """The cause in a line: Beam wraps an error of a worker in the text of its traceback."""
    # What a step raises, Beam raises again with the step's name; what led to it stands before, what came of it behind.
    text, of_step, _ = traceback.format_exception_only(error)[0].partition(" [while running '")
    if _OF_A_DEAD_WORKER in text:
        return "a worker died, as where memory runs out: fewer --workers need less"
    causes = _CAUSE.findall(text)
    if not causes:
        return text.strip()
    return ": ".join(causes[-1] if of_step else next((c for c in causes if c[0] != "RuntimeError"), causes[-1]))


def _show(scan: Run, manifest: dict[str, Any]) -> None:
    screen = console()
    if 0 < sum(file["rows"] for file in manifest["files"]) <= _LARGEST_LISTING:
        screen.print(_listing(scan, manifest))
    for column, counts in manifest["counts"].items():
        if counts:
            screen.print(f"{column:12}", "  ".join(f"{name} {count:,}" for name, count in counts.items()))
    screen.print(
        f"{'images':12} {manifest['inputs']:,}", f"skipped {manifest['skipped']:,}" * (manifest["skipped"] > 0)
    )
    screen.print(f"{'parquet':12} {plain(scan.output)}", soft_wrap=True)
    screen.print(f"{'manifest':12} {plain(scan.manifest_path)}", soft_wrap=True)


def _listing(scan: Run, manifest: dict[str, Any]) -> Table:
    table = Table("image", "verdict", "p-value", "MMD^2", box=None, header_style="bold")
    here = f"{Path.cwd()}/"
    columns = ["image_uri", "verdict", "p_value", "mmd2", "error_code"]
    for row in find_rows(scan.output, None, [manifest], columns):
        name = plain(row["image_uri"].removeprefix(here))
        if row["error_code"]:
            table.add_row(name, f"[red]failed: {row['error_code']}[/]", "", "")
        else:
            table.add_row(name, row["verdict"], f"{row['p_value']:.4f}", f"{row['mmd2']:+.4f}")
    return table
