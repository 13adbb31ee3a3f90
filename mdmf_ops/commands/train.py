"""Carries out `mdmf train`."""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import model_assets
from mdmf_ops.cli import EXIT_OK, UsageError
from mdmf_ops.commands.labelled import computing, read_images
from mdmf_ops.commands.terminal import progress_bar
from mdmf_ops.detector.detector import CALIBRATION_FILE, load_backbone
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.features import extract
from mdmf_ops.training.fit import fit
from mdmf_ops.training.train import describe_training, save_detector, training_images


def read_config(path: Path | None) -> TrainingConfig:
    """The training configuration of a JSON file; without one, the defaults."""
    try:
        return TrainingConfig.from_dict(json.loads(path.read_text())) if path else TrainingConfig()
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


def _require_no_calibration(folder: Path) -> None:
    """Refuses a folder with a detector that is done: one that is not yet calibrated may be trained anew."""
    try:
        files = model_assets.listed_files(folder)
    except model_assets.AssetError:
        return
    if CALIBRATION_FILE in files:
        raise UsageError(f"{folder}: a calibrated detector lies there already; name another folder")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    images = read_images(arguments)
    config = read_config(arguments.config)
    names = {image.source for image in images}
    if unknown := sorted(set(arguments.leave_out) - names):
        raise UsageError(f"--leave_out: no image is of {', '.join(unknown)}; sources are {', '.join(sorted(names))}")
    chosen = training_images(images, arguments.leave_out)
    with computing():
        _require_no_calibration(arguments.output)
        arguments.output.mkdir(parents=True, exist_ok=True)  # before anything is computed in vain
        assets = model_assets.read_assets(arguments.backbone_from or model_assets.embedded())
        backbone = load_backbone(assets)
        used = [images[i] for i in chosen]
        with progress_bar("embedding patches") as bar:
            # Of all images, though only some are trained on: `mdmf evaluate --leave_one_out` needs the same features.
            features = extract(images, backbone, "training_chain", config.copies, config.seed, arguments.work, bar)
        # Of all that decides a training, so that none goes on from another's checkpoint.
        labels = [(int(i), images[i].generated, images[i].source) for i in chosen]
        key = json.dumps([features.digest, dataclasses.asdict(config), labels])
        checkpoint = arguments.work / f"fit-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
        with progress_bar("training") as bar:
            signature, bank = fit(features, images, chosen, config, bar, checkpoint)
        training = describe_training(used, config)
        saved = save_detector(arguments.output, assets.manifest["backbone"], backbone, signature, bank, training)
    checkpoint.unlink(missing_ok=True)
    if arguments.json:
        print(json.dumps({"detector_id": saved.detector_id, "folder": str(arguments.output)}, indent=2))
    else:
        print(f"{saved.detector_id} in {arguments.output}; next: mdmf calibrate {arguments.output} ...")
    return EXIT_OK
