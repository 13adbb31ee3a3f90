"""Give a trained detector its p-values, from real images that the training held out.

    mdmf calibrate my_detector --index images.csv

Each held-out real image is scored twice: as it was found, and after a chain of crop, resize and re-encode. The scores
are kept in the detector's folder; a p-value is the share of them that lie as high.
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
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    images = read_images(arguments)
    torch.set_num_threads(1)  # the matrices are small, and two threads that contend for a core are far slower than one
    try:
        with progress_bar("scoring real images") as bar:
            assets = calibrate(arguments.assets, images, arguments.work, bar)
    except (ValueError, model_assets.AssetError) as error:
        raise UsageError(str(error)) from error
    calibration = assets.manifest["calibration"]
    if arguments.json:
        print(json.dumps({"detector_id": assets.detector_id, "calibration": calibration}, indent=2))
        return EXIT_OK
    print(f"{assets.detector_id}: {calibration['scores']} scores of {calibration['real_images']} real images")
    return EXIT_OK
