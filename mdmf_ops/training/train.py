"""Labelled images to a detector's folder, ready for `mdmf calibrate`."""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

import model_assets
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.detector import BACKBONE_FILE, BANK_FILE, SIGNATURE_FILE, load_bank, load_model
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.data import HELD_OUT_FRACTION, LabelledImage


def training_images(images: Sequence[LabelledImage], leave_out: Collection[str] = ()) -> np.ndarray:
    """Indices of the images to train on: not held out, nor of a source that is left out.

    Neither are copies of such a source's images, wherever they lie, nor twins of those.
    """
    unseen = {image.sha256 for image in images if image.source in leave_out}
    return np.array(
        [
            i
            for i, image in enumerate(images)
            if not image.held_out and unseen.isdisjoint((image.sha256, image.original_sha256))
        ],
        dtype=int,
    )


def save_detector(
    folder: Path,
    description: dict[str, Any],
    backbone: Backbone,
    signature: Signature,
    bank: Bank,
    training: dict[str, Any],
) -> model_assets.Assets:
    """Writes a trained detector, not yet calibrated, into a folder, and loads it once, as `mdmf calibrate` will.

    Args:
        description: of the backbone, as the manifest that it was loaded from has it; the detector bears its name.
        training: what the manifest says of the training.

    Raises:
        AssetError: it cannot be loaded: the training diverged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to(backbone.stored_dtype) for name, tensor in backbone.state_dict().items()}
    save_tensors(folder / BACKBONE_FILE, stored)
    save_tensors(folder / SIGNATURE_FILE, signature.state_dict())
    save_tensors(folder / BANK_FILE, bank.tensors())
    assets = model_assets.write_assets(
        folder,
        description["name"],
        [BACKBONE_FILE, SIGNATURE_FILE, BANK_FILE],
        {
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "backbone": description,
            "signature": {
                "embedding_dim": signature.mean.numel(),
                "hidden_dim": signature.hidden_dim,
                "signature_dim": bank.signatures.shape[-1],
                "views": signature.views,
            },
            "bank": bank.description(),
            "training": training,
        },
    )
    load_model(assets)
    load_bank(assets)
    return assets


def describe_training(images: Sequence[LabelledImage], config: TrainingConfig) -> dict[str, Any]:
    """What a manifest says of a training: its configuration, and how many images of each source it saw."""
    counts = {
        label: dict(sorted(Counter(image.source for image in images if image.generated is generated).items()))
        for label, generated in (("real", False), ("generated", True))
    }
    return {"config": dataclasses.asdict(config), "held_out_fraction": HELD_OUT_FRACTION, "images": counts}


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors as safetensors that others than the writer can read."""
    # Through bytes: safetensors' own file would be readable by its owner alone.
    path.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}))
