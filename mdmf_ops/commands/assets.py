"""Carries out `mdmf assets`."""

import argparse
import json
import tempfile
from pathlib import Path

import model_assets
from mdmf_ops.arguments.assets import HUB_IDS
from mdmf_ops.cli import EXIT_FAILED, EXIT_OK, UsageError, complain
from mdmf_ops.commands.terminal import waiting
from mdmf_ops.detector import Calibration
from mdmf_ops.detector.detector import CALIBRATION_FILE, SIGNATURE_FILE, load_backbone, load_bank, load_model
from model_assets.fetch import fetch_checkpoint


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    return {"list": _list, "fetch": _fetch, "verify": _verify}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    assets = model_assets.read_assets(model_assets.embedded())
    if arguments.json:
        detector = {"name": assets.manifest["name"], "detector_id": assets.detector_id, "folder": str(assets.folder)}
        print(json.dumps({"detectors": [detector], "extractors": HUB_IDS}, indent=2))
        return EXIT_OK
    print("detectors of this package:")
    print(f"  {assets.manifest['name']:14}{assets.detector_id}, {_megabytes(assets)} MB, {assets.folder}")
    print("extractors for mdmf assets fetch NAME --revision COMMIT --output DIR:")
    for name, hub_id in HUB_IDS.items():
        print(f"  {name:14}{hub_id}")
    return EXIT_OK


def _fetch(arguments: argparse.Namespace) -> int:
    try:
        # Here and not above: only fetching needs the packages of a checkpoint.
        from mdmf_ops.training.checkpoint import save_extractor
    except ModuleNotFoundError as error:
        raise UsageError(f"fetch needs {error.name}: pip install 'mdmf-ops[dinov2]' on Python 3.11 or later") from error
    source = HUB_IDS.get(arguments.source, arguments.source)
    try:
        with tempfile.TemporaryDirectory(prefix="mdmf-") as folder, waiting(f"fetching {source}"):
            checkpoint = fetch_checkpoint(source, arguments.revision, Path(folder))
            assets = save_extractor(arguments.output, checkpoint, arguments.tile_px)
    except (OSError, model_assets.AssetError) as error:
        raise UsageError(str(error)) from error
    if arguments.json:
        told = {"detector_id": assets.detector_id, "folder": str(arguments.output), "source": source}
        print(json.dumps(told | {"weights_sha256": checkpoint.weights_sha256}, indent=2))
        return EXIT_OK
    print(f"{assets.detector_id} in {arguments.output}, {_megabytes(assets)} MB")
    print(f"from {source} with SHA-256 {checkpoint.weights_sha256}")
    print(f"next: mdmf train --backbone_from {arguments.output} ...")
    return EXIT_OK


def _verify(arguments: argparse.Namespace) -> int:
    found: list[dict[str, str | None]] = []
    for folder in arguments.folders:
        detector_id = what = said = None
        try:
            assets = model_assets.read_assets(folder)
            detector_id, what = assets.detector_id, _what(assets)
        except (ValueError, model_assets.AssetError) as error:
            said = str(error)
        except OSError as error:  # which may name no file
            said = f"{folder}: {error}"
        found.append({"folder": str(folder), "detector_id": detector_id, "what": what, "error": said})
        if said:
            complain(f"mdmf assets: {said}")
        elif not arguments.json:
            print(f"{folder}: {detector_id}, {what}: {len(assets.manifest['files'])} files are whole")
    if arguments.json:
        print(json.dumps(found, indent=2))
    return EXIT_FAILED if any(each["error"] for each in found) else EXIT_OK


def _what(assets: model_assets.Assets) -> str:
    """Loads every tensor of the folder, and says what they make together."""
    files = assets.manifest["files"]
    if SIGNATURE_FILE not in files:
        load_backbone(assets)
        return "an extractor, not trained yet"
    load_model(assets)
    load_bank(assets)
    if CALIBRATION_FILE not in files:
        return "a detector, not calibrated yet"
    Calibration.load(assets.path(CALIBRATION_FILE))
    return "a detector"


def _megabytes(assets: model_assets.Assets) -> float:
    return round(sum(file["bytes"] for file in assets.manifest["files"].values()) / 1e6, 1)
