"""Measure a detector on labelled images, every one through the same random chain.

    mdmf evaluate --real photos --fake images/newmodel --output report
        the detector as it is, on sources that it was not trained on: refused for others' training images

    mdmf evaluate --leave_one_out --index images.csv --output report --card
        trains again without each generator and each real source, with the detector's own settings, and measures on
        what was left out; --card writes the result as MODEL_CARD.md into the detector's folder

Writes report.md and metrics.csv.
"""

import argparse
from pathlib import Path

import torch

import model_assets
from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.labelled import add_image_arguments, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.detector import Detector
from mdmf_ops.training.calibrate import SEED
from mdmf_ops.training.evaluate import evaluate_detector, leave_one_out
from mdmf_ops.training.features import extract
from mdmf_ops.training.fit import TrainingConfig
from mdmf_ops.training.report import write_model_card, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    parser.add_argument("--assets", type=Path, metavar="DIR", help="folder of the detector (default: embedded)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--leave_one_out", action="store_true", help="train without each source in turn, and test on it"
    )
    parser.add_argument("--card", action="store_true", help="write MODEL_CARD.md (only with --leave_one_out)")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    if arguments.card and not arguments.leave_one_out:
        raise UsageError("--card goes with --leave_one_out: a model card tells of sources left out of training")
    images = read_images(arguments)
    torch.set_num_threads(1)  # the matrices are small, and two threads that contend for a core are far slower than one
    try:
        detector = Detector.load(arguments.assets, device="cpu")
        with progress_bar("embedding test images") as bar:
            test = extract(images, detector.backbone, "evaluation_chain", 1, SEED, arguments.work, bar)
        if arguments.leave_one_out:
            config = TrainingConfig.from_dict(detector.assets.manifest["training"]["config"])
            with progress_bar("embedding training images") as bar:
                training = extract(
                    images,
                    detector.backbone,
                    "training_chain",
                    config.copies,
                    config.seed,
                    arguments.work,
                    bar,
                )
            with progress_bar("leaving one out") as bar:
                results = leave_one_out(images, training, test, config, bar)
        else:
            results = evaluate_detector(detector, images, test)
    except (ValueError, model_assets.AssetError) as error:
        raise UsageError(str(error)) from error
    print(write_report(arguments.output, detector.assets, results, arguments.leave_one_out))
    if arguments.card:
        write_model_card(detector.assets, results)
    return EXIT_OK
