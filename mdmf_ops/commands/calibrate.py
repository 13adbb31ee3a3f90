"""Give a trained detector its p-values, from real images of sources that were left out of training.

    mdmf calibrate my_detector --index images.csv
        the same images as for mdmf train: trains again without each real source in turn, and scores what was left out

    mdmf calibrate my_detector --real photographs --held_out
        quicker, and the way for a detector that others trained: the detector itself scores the real images that it was
        not trained on: all of other sources, and what its training held out. A source is known by its name: images of
        the training under another one count as never seen. Its p-values promise nothing for a source unlike those.

Each image is scored after a chain of crop, resize and re-encode as on the web; with --held_out also as it is, which is
how a scan will find it, and the more generated of the two counts. The scores are kept in the detector's folder, by size
where there are enough. A p-value is the share of real images that lie as high, in the source where that share is the
largest: so alpha holds for photographs that look generated, and not just for the average of them. Give 50 images of a
source or more, 100 for an alpha of .01: smaller sources count as one together. Of a large archive a thousand drawn at
random are enough, as an index or a folder of links: all are held in memory, with micro at up to 1.3 MB an image.
"""

import argparse
import json
import sys
from pathlib import Path

from mdmf_ops.cli import EXIT_OK
from mdmf_ops.commands.labelled import add_image_arguments, computing, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.training.calibrate import calibrate
from mdmf_ops.training.report import MODEL_CARD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", type=Path, metavar="DIR", help="folder of the detector, from mdmf train")
    add_image_arguments(parser)
    parser.add_argument(
        "--held_out", action="store_true", help="score what it was not trained on by the detector itself: no training"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


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
