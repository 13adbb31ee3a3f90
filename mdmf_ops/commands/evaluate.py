"""Measure a detector on labelled images, every one through the same random chain.

    mdmf evaluate --real photos --fake images/newmodel --output report
        the detector as it is, on sources that it was not trained on: refused for others' training images

    mdmf evaluate --leave_one_out --index images.csv --output report --card
        trains again without each generator and each real source, with the detector's own settings, and measures on
        what was left out; --card writes the result as MODEL_CARD.md into the detector's folder

Writes report.md, metrics.csv and, with `pip install 'mdmf-ops[evaluate]'`, plots. --curves, --splices and --both_out
measure more and cost more: some .1 s of CPU an image and point of a curve (19 of them, up to four times that for the
enlarged ones), as much for a splice, and a training for each generator and real source.
"""

import argparse
import dataclasses
from pathlib import Path

from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.labelled import add_image_arguments, computing, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.detector import Detector
from mdmf_ops.training.bench import Bench
from mdmf_ops.training.data import sources
from mdmf_ops.training.report import write_model_card, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    parser.add_argument("--assets", type=Path, metavar="DIR", help="folder of the detector (default: embedded)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--leave_one_out", action="store_true", help="train without each source in turn, and test on it"
    )
    parser.add_argument(
        "--both_out",
        action="store_true",
        help="also train without each pair of a generator and a real source (only with --leave_one_out)",
    )
    parser.add_argument(
        "--curves",
        type=_count,
        default=0,
        metavar="N",
        help="also treat N images a source once more: JPEG, blur, noise, resizing (default: %(default)s)",
    )
    parser.add_argument(
        "--splices",
        type=_count,
        default=0,
        metavar="N",
        help="also paste N images a generator into real ones, and see where the evidence lies (default: %(default)s)",
    )
    parser.add_argument("--card", action="store_true", help="write MODEL_CARD.md (only with --leave_one_out)")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images")
    return int(text)


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
