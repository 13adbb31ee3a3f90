"""`Detector`: bytes of images to scores, on one device."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import model_assets
from mdmf_ops.cores import usable_cores
from mdmf_ops.defaults import DEFAULT_ALPHA, DEVICES, PRECISIONS
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.backbones import make_backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.calibration import Calibration
from mdmf_ops.detector.precision import keeps_scores
from mdmf_ops.detector.scorer import Scorer, Terms
from mdmf_ops.detector.signature import Signature
from mdmf_ops.images.decode import Limits

BACKBONE_FILE = "backbone.safetensors"
SIGNATURE_FILE = "signature.safetensors"
BANK_FILE = "bank.safetensors"
CALIBRATION_FILE = "calibration.json"

_MOST_THREADS = 8

_DEVICE_THREAD = ThreadPoolExecutor(1, "mdmf-device")
"""Gives an accelerator one image after the other: its memory holds the activations of one, and cuDNN's settings are
those of the process. Its plans, though, are each thread's own, and take seconds for every new size of tiles."""

# A fork has none of the threads that torch started here, and would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

_UNFIT = (TypeError, ValueError, OverflowError, RuntimeError)
"""What comes of a description in a manifest that is none."""


class Detector(Scorer):
    """Scores images against a bank of real ones. A score depends on the image and the assets alone."""

    def __init__(
        self,
        backbone: Backbone,
        signature: Signature,
        bank: Bank,
        calibration: Calibration,
        *,
        alpha: float = DEFAULT_ALPHA,
        limits: Limits | None = None,
        device: torch.device | str = "cpu",
        precision: str = PRECISIONS[0],
        threads: int | None = None,
        assets: model_assets.Assets | None = None,
        isolated: bool = True,
    ):
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        terms = Terms(backbone.geometry, calibration, device_name(self.device), PRECISIONS[0], assets)
        super().__init__(
            terms, alpha, limits, threads or (1 if on_cpu else min(usable_cores(), _MOST_THREADS)), isolated
        )
        self.backbone = backbone.to(self.device).eval()
        self.signature = signature.to(self.device).eval()
        self.bank = bank.to(self.device)
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
        if precision != PRECISIONS[0] and keeps_scores(self._evidence, precision, terms):
            self.terms = replace(terms, precision=precision)

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        *,
        alpha: float = DEFAULT_ALPHA,
        limits: Limits | None = None,
        device: str = "auto",
        precision: str = PRECISIONS[0],
        threads: int | None = None,
        isolated: bool = True,
    ) -> "Detector":
        """Loads a detector from its folder, checked file by file; without a folder, the embedded `micro`.

        Args:
            folder: as `mdmf train` and `mdmf calibrate` leave it.
            alpha: level of the verdict: at most about the rate at which real images are called `likely_ai`.
            limits: what is refused before decoding.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is one.
            precision: `float32`, or `bfloat16` where that leaves the scores as they are; see `keeps_scores`. What was
                taken is in `terms`.
            threads: images on their way at once; None is one where the network runs on the CPU, and several on a GPU.
            isolated: decode in a process of its own, within the limits of time and memory. Without it a decoder that
                hangs or dies takes this process with it: for images that you trust.

        Raises:
            model_assets.AssetError: a file is missing, damaged or does not fit.
            ValueError: alpha is out of the calibration's reach, or the device is none of these, or is not there.
        """
        assets = model_assets.read_assets(model_assets.embedded() if folder is None else folder)
        backbone, signature = load_model(assets)
        bank = load_bank(assets)
        if CALIBRATION_FILE not in assets.manifest["files"]:
            raise model_assets.AssetError(f"{assets.folder}: not calibrated yet: run `mdmf calibrate` on it")
        try:
            calibration = Calibration.load(assets.path(CALIBRATION_FILE))
        except ValueError as error:
            raise model_assets.AssetError(str(error)) from error
        return cls(
            backbone,
            signature,
            bank,
            calibration,
            alpha=alpha,
            limits=limits,
            device=pick_device(device),
            precision=precision,
            threads=threads,
            assets=assets,
            isolated=isolated,
        )

    def evidence(self, tiles: np.ndarray) -> np.ndarray:
        """Evidence of each patch of one image's tiles; see `Scorer`.

        Images are never batched with each other: the sums of a convolution would depend on the batch.
        """
        return self._evidence(tiles, self.terms.precision)

    def _evidence(self, tiles: np.ndarray, precision: str) -> np.ndarray:
        if self.device.type == "cpu":
            return self._queued(tiles, precision).numpy()
        # Work is queued, not done: the next image is queued behind it while this one is waited for.
        return _DEVICE_THREAD.submit(self._queued, tiles, precision).result().cpu().numpy()

    @torch.inference_mode()
    def _queued(self, tiles: np.ndarray, precision: str) -> Tensor:
        """(K,) on the device, which may not have computed it yet."""
        fast = precision != PRECISIONS[0]
        with exact_convolutions(self.device):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
                embeddings = self.backbone.embed(tiles)
            signatures = self.signature(embeddings.float())  # (E, K, m)
            return self.bank.evidence(signatures, self.signature.width).mean(0)


def exact_convolutions(device: torch.device) -> contextlib.AbstractContextManager:
    """Has cuDNN keep all of float32, which it rounds to 10 bits (TF32) by default, and sum in one order each time."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def load_backbone(assets: model_assets.Assets) -> Backbone:
    """The backbone of checked assets, with its weights; they need no signature and no bank."""
    description = assets.table("backbone")
    try:
        backbone = make_backbone(description.get("name"), description.get("options", {}))
    except ValueError as error:
        raise model_assets.AssetError(f"{assets.folder / model_assets.MANIFEST}: backbone: {error}") from error
    template = {name: tensor.to(backbone.stored_dtype) for name, tensor in backbone.state_dict().items()}
    stored = assets.tensors(BACKBONE_FILE, template)
    backbone.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, assign=True)
    return backbone


def load_model(assets: model_assets.Assets) -> tuple[Backbone, Signature]:
    """The backbone and the signature of checked assets, with their weights."""
    if SIGNATURE_FILE not in assets.manifest["files"]:
        raise model_assets.AssetError(
            f"{assets.folder}: an extractor, not trained yet: run `mdmf train --backbone_from {assets.folder}`"
        )
    backbone = load_backbone(assets)
    signature = _described_signature(assets)
    signature.load_state_dict(assets.tensors(SIGNATURE_FILE, signature.state_dict()), assign=True)
    if backbone.embedding_dim != signature.mean.numel():
        raise model_assets.AssetError(
            f"{assets.folder}: expected a signature of {backbone.embedding_dim} channels,"
            f" found {signature.mean.numel()}"
        )
    return backbone, signature


def _described_signature(assets: model_assets.Assets) -> Signature:
    """The signature that a manifest describes, without weights."""
    try:
        # A size that only claims to be is found before memory is taken for it.
        with torch.device("meta"):
            return Signature(**assets.table("signature"))
    except _UNFIT as error:
        raise _unfit(assets, "signature", error) from error


def load_bank(assets: model_assets.Assets) -> Bank:
    """The bank of checked assets, of signatures like theirs."""
    description = assets.table("bank")
    try:
        with torch.device("meta"):
            template = Bank.template(**description)
    except _UNFIT as error:
        raise _unfit(assets, "bank", error) from error
    signature = _described_signature(assets)
    # Another number of either would be stretched to the signature's, and give scores of nothing.
    views, size, signature_dim = template["signatures"].shape
    expected = len(signature.views), signature.last[0].out_features
    if not size or (views, signature_dim) != expected:
        raise model_assets.AssetError(
            f"{assets.folder}: expected a bank of one signature or more, of {expected[0]} views and {expected[1]}"
            f" numbers, found {size} of {views} and {signature_dim}"
        )
    origin = {name: description[name] for name in ("compressed_from", "error_bound") if name in description}
    return Bank(**assets.tensors(BANK_FILE, template), **origin)


def _unfit(assets: model_assets.Assets, part: str, error: Exception) -> model_assets.AssetError:
    [reason] = f"{type(error).__name__}: {error}".splitlines()[:1]
    return model_assets.AssetError(f"{assets.folder / model_assets.MANIFEST}: {part}: {reason}")


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; `cuda` without CUDA is an error, never a silent fall-back."""
    if device not in DEVICES:
        raise ValueError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device here; use --device auto or cpu")
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda` and the name of the GPU: another one may round otherwise."""
    return device.type if device.type != "cuda" else f"cuda {torch.cuda.get_device_name(device)}"
