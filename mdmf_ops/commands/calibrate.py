"""Carries out `mdmf calibrate`."""

import argparse
import json
import sys

from mdmf_ops.cli import EXIT_OK
from mdmf_ops.commands.labelled import computing, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.training.calibrate import calibrate
from mdmf_ops.training.report import MODEL_CARD


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    images = read_images(arguments)
    with computing(), progress_bar("scoring real images") as bar:
        assets = calibrate(arguments.assets, images, arguments.work, bar, arguments.held_out)
    calibration = assets.manifest["calibration"]
    if arguments.json:
        print(json.dumps({"detector_id": assets.detector_id, "calibration": calibration}, indent=2))
        return EXIT_OK
    if (arguments.assets / MODEL_CARD).exists():
        print(f"{arguments.assets / MODEL_CARD} is of the detector as it was calibrated before", file=sys.stderr)
    strata, how = ", ".join(calibration["strata"]), calibration["scored_by"]
    print(f"{assets.detector_id}: {calibration['real_images']} real images, scored by {how}: {strata}")
    return EXIT_OK
