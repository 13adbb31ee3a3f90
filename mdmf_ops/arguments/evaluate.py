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
from pathlib import Path

from mdmf_ops.arguments.shared import add_image_arguments


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
