"""Carries out `mdmf evaluate`."""

import argparse
import dataclasses

from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.labelled import computing, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.detector import Detector
from mdmf_ops.training.bench import Bench
from mdmf_ops.training.data import sources
from mdmf_ops.training.report import write_model_card, write_report


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    for option in ("card", "both_out"):
        if getattr(arguments, option) and not arguments.leave_one_out:
            raise UsageError(f"--{option} goes with --leave_one_out: it is about sources left out of training")
    images = read_images(arguments)
    for kind, generated in (("generator", True), ("real source", False)):
        if arguments.leave_one_out and len(names := sources(images, generated)) == 1:
            raise UsageError(f"--leave_one_out: {names[0]} is the only {kind}: none is left without it")
    with computing():
        arguments.output.mkdir(parents=True, exist_ok=True)  # before anything is measured in vain
        detector = Detector.load(arguments.assets, device="cpu")
        detector.assets.table("calibration", "sources")  # a manifest without it is refused here, not by the report
        bench = Bench(detector, images, arguments.work, arguments.leave_one_out, progress_bar)
        if arguments.splices:
            bench.donors()  # where there are too few it says so
        results = dataclasses.replace(
            bench.results(),
            both_out=bench.both_out() if arguments.both_out else {},
            curves=bench.curves(arguments.curves) if arguments.curves else (),
            splices=bench.splices(arguments.splices) if arguments.splices else (),
        )
    print(write_report(arguments.output, detector.assets, results, arguments.leave_one_out))
    if arguments.card:
        write_model_card(detector.assets, results)
    return EXIT_OK
