"""A trained detector and real images it has not seen, to a calibrated one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import model_assets
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.calibration import Calibration
from mdmf_ops.detector.detector import CALIBRATION_FILE, load_bank, load_model
from mdmf_ops.detector.mmd import patch_evidence
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Features, Progress, extract

SEED = 1_000_003
"""Of the chain that calibration and evaluation images go through; training uses others."""

CALIBRATION_CHAINS = ("none", "evaluation_chain")
"""Each held-out image counts as it was found, and once resized and encoded again as it would be on the web."""


@torch.inference_mode()
def score_features(features: Features, indices: Sequence[int], signature: Signature, bank: Bank) -> np.ndarray:
    """(len(indices),) float32: squared MMD of images whose embeddings are known, as the detector computes it."""
    scores = []
    for index in indices:
        signatures = signature(torch.from_numpy(features.patches(index)).float())
        scores.append(patch_evidence(signatures, bank.signatures, bank.term, signature.width).mean().item())
    return np.array(scores, np.float32)


def held_out_real(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Real images that no training here has seen."""
    return [image for image in images if not image.generated and image.held_out]


def calibrate(folder: Path, images: Sequence[LabelledImage], work: Path, progress: Progress) -> model_assets.Assets:
    """Scores held-out real images and writes them into the detector's folder as its calibration.

    Args:
        folder: of a trained detector; it gets a new id.
        images: labelled; the real ones that the training held out are used.
        work: where computed features are kept.

    Raises:
        ValueError: too few images for a p-value of .01.
    """
    images = held_out_real(images)
    if len(images) < 100:
        raise ValueError(f"{len(images)} real images are held out: 100 at least, for a p-value of .01 to exist")
    assets = model_assets.read_assets(folder)
    backbone, signature = load_model(assets)
    bank = load_bank(assets)
    scores = [
        score_features(extract(images, backbone, chain, 1, SEED, work, progress), range(len(images)), signature, bank)
        for chain in CALIBRATION_CHAINS
    ]
    calibration = Calibration(f"all-n{len(images)}", np.concatenate(scores))
    calibration.save(folder / CALIBRATION_FILE)
    kept = {key: assets.manifest[key] for key in ("created", "backbone", "signature", "bank", "training")}
    description = {
        "real_images": len(images),
        "sources": dict(sorted(Counter(image.source for image in images).items())),
        "chains": list(CALIBRATION_CHAINS),
        "scores": calibration.scores.size,
    }
    files = sorted({*assets.manifest["files"], CALIBRATION_FILE})
    return model_assets.write_assets(folder, assets.manifest["name"], files, {**kept, "calibration": description})
