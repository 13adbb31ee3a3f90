"""Give a trained detector its p-values, from real images of sources that were left out of training.

    mdmf calibrate my_detector --index images.csv
        the same images as for mdmf train: trains again without each real source in turn, and scores what was left out

    mdmf calibrate my_detector --real photographs --held_out
        quicker: the detector itself scores the real images that its training held out. Its p-values promise nothing for
        a source unlike those.

Each image is scored once, after a chain of crop, resize and re-encode as on the web. The scores are kept in the
detector's folder, by size where there are enough. A p-value is the share of real images that lie as high, in the source
where that share is the largest: so alpha holds for photographs that look generated, and not just for the average of
them.
"""

import argparse
import json
from pathlib import Path

import torch

import model_assets
from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.labelled import add_image_arguments, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.training.calibrate import calibrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", type=Path, metavar="DIR", help="folder of the detector, from mdmf train")
    add_image_arguments(parser)
    parser.add_argument(
        "--held_out", action="store_true", help="score held-out images by the detector itself: no further training"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    images = read_images(arguments)
    torch.set_num_threads(1)  # the matrices are small, and two threads that contend for a core are far slower than one
    try:
        with progress_bar("scoring real images") as bar:
            assets = calibrate(arguments.assets, images, arguments.work, bar, arguments.held_out)
    except (ValueError, model_assets.AssetError) as error:
        raise UsageError(str(error)) from error
    calibration = assets.manifest["calibration"]
    if arguments.json:
        print(json.dumps({"detector_id": assets.detector_id, "calibration": calibration}, indent=2))
        return EXIT_OK
    strata, how = ", ".join(calibration["strata"]), calibration["scored_by"]
    print(f"{assets.detector_id}: {calibration['real_images']} real images, scored by {how}: {strata}")
    return EXIT_OK
