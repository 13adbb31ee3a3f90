"""Train a detector's signature and bank from labelled images.

    mdmf train --index images.csv --output my_detector
    mdmf train --real photos/web photos/phone --fake images/sdxl images/flux --output my_detector
    mdmf calibrate my_detector --real photos/web photos/phone --fake images/sdxl images/flux

Every image, real or generated, goes through the same random chain of crop, resize and re-encode. 40 % of all images,
real and generated, are held out for calibration and evaluation, by their content; a generated twin goes with its
original. The patch extractor is taken, frozen, from another detector. An interrupted training goes on when the same
command is given again: from the last finished copy of all images (`copies` of --config), and of the method `mmd` from
the last full hundred of its steps.
"""

import argparse
from pathlib import Path

from mdmf_ops.arguments.shared import add_image_arguments
from mdmf_ops.training.config import TrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the new detector")
    parser.add_argument("--config", type=Path, metavar="JSON", help=f"settings other than {TrainingConfig()}")
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="SOURCE", help="sources not to train on")
    parser.add_argument(
        "--backbone_from",
        type=Path,
        metavar="DIR",
        help="detector, or extractor of mdmf assets fetch, that lends its extractor (default: embedded)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
