"""`Detector`: bytes of images to scores, on one device."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import model_assets
from mdmf_ops.detector.backbone import Backbone, make_backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.calibration import Calibration, Verdict, verdict
from mdmf_ops.detector.decode import DecodedImage, Limits, decode
from mdmf_ops.detector.errors import ErrorCode, ImageError
from mdmf_ops.detector.isolation import decode_isolated
from mdmf_ops.detector.mmd import patch_evidence
from mdmf_ops.detector.signature import Signature
from mdmf_ops.detector.tiles import TiledImage, TilePlan, tile_image

BACKBONE_FILE = "backbone.safetensors"
SIGNATURE_FILE = "signature.safetensors"
BANK_FILE = "bank.safetensors"
CALIBRATION_FILE = "calibration.json"

DEFAULT_ALPHA = 0.01

_UNFIT = (KeyError, TypeError, ValueError, OverflowError, RuntimeError)
"""What comes of a description in a manifest that is none."""


@dataclass(frozen=True)
class Score:
    """What the detector says of one image.

    Attributes:
        mmd2: unbiased squared MMD to the bank of real patches, the mean of `evidence`; may be negative.
        p_value: conformal, in (0, 1].
        verdict: of the p-value at `alpha`.
        evidence: (T * grid_rows * grid_cols,) float32, tile by tile, each in raster order.
        plan: where the tiles lie, in px of the upright image.
        width_px, height_px: of the upright image; its pixels are not kept.
        decode_us, score_us: how long it took, in microseconds, where `Detector.score` was asked; else 0.
    """

    mmd2: float
    p_value: float
    verdict: Verdict
    alpha: float
    calibration_id: str
    evidence: np.ndarray
    plan: TilePlan
    width_px: int
    height_px: int
    image_format: str
    jpeg_quality: int | None
    decode_us: int = 0
    score_us: int = 0


class Detector:
    """Scores images against a bank of real ones. A score depends on the image and the assets alone.

    Example::

        from mdmf_ops.detector import Detector

        detector = Detector.load()
        [result] = detector.score([open("photo.jpg", "rb").read()])
        print(result)
    """

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
        assets: model_assets.Assets | None = None,
        isolated: bool = True,
    ):
        if not calibration.smallest_p_value <= alpha < 1:
            raise ValueError(
                f"alpha={alpha} cannot be told: the {calibration.scores.size} calibration scores of"
                f" {calibration.calibration_id} reach from {calibration.smallest_p_value:.2g} to 1"
            )
        self.device = torch.device(device)
        self.backbone = backbone.to(self.device).eval()
        self.signature = signature.to(self.device).eval()
        self.bank = Bank(bank.signatures.to(self.device), bank.term.to(self.device))
        self.calibration = calibration
        self.alpha = alpha
        self.limits = limits or Limits()
        self.assets = assets
        self.isolated = isolated

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        *,
        alpha: float = DEFAULT_ALPHA,
        limits: Limits | None = None,
        device: str = "auto",
        isolated: bool = True,
    ) -> "Detector":
        """Loads a detector from its folder, checked file by file; without a folder, the embedded `micro`.

        Args:
            folder: as `mdmf train` and `mdmf calibrate` leave it.
            alpha: level of the verdict: the rate at which real images may be called `likely_ai`.
            limits: what is refused before decoding.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is one.
            isolated: decode in a process of its own, within the limits of time and memory. Without it a decoder that
                hangs or dies takes this process with it: for images that you trust.

        Raises:
            model_assets.AssetError: a file is missing, damaged or does not fit.
            ValueError: alpha is out of the calibration's reach, or CUDA was asked for and is not there.
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
            assets=assets,
            isolated=isolated,
        )

    def score(self, batch: Sequence[bytes]) -> list[Score | ImageError]:
        """Scores encoded images: a result or a typed error for each, in the order of the batch."""
        return [self._score_one(content) for content in batch]

    def _score_one(self, content: bytes) -> Score | ImageError:
        started_ns = time.perf_counter_ns()
        try:
            image = self._tiles_of(content)
            decoded_ns = time.perf_counter_ns()
            score = self.score_tiles(image)
        except ImageError as error:
            return error
        except torch.cuda.OutOfMemoryError as error:  # of a single tile
            return ImageError(ErrorCode.OUT_OF_MEMORY, f"the network: {error}")
        scored_ns = time.perf_counter_ns()
        return replace(score, decode_us=(decoded_ns - started_ns) // 1000, score_us=(scored_ns - decoded_ns) // 1000)

    def _tiles_of(self, content: bytes) -> TiledImage:
        if self.isolated:
            return decode_isolated(content, self.backbone.geometry, self.limits)
        return tile_image(decode(content, self.limits), self.backbone.geometry)

    def score_decoded(self, image: DecodedImage) -> Score:
        """Scores one decoded image. Raises ImageError where no finite score comes out."""
        return self.score_tiles(tile_image(image, self.backbone.geometry))

    def score_tiles(self, image: TiledImage) -> Score:
        """Scores one image by its tiles. Raises ImageError where no finite score comes out."""
        evidence = self.evidence(image.tiles)
        mmd2 = float(evidence.mean(dtype=np.float64))
        if not np.isfinite(mmd2):
            raise ImageError(ErrorCode.INTERNAL, "the detector gave no finite score for this image")
        p_value = self.calibration.p_value(mmd2)
        return Score(
            mmd2=mmd2,
            p_value=p_value,
            verdict=verdict(p_value, self.alpha),
            alpha=self.alpha,
            calibration_id=self.calibration.calibration_id,
            evidence=evidence,
            plan=image.plan,
            width_px=image.width_px,
            height_px=image.height_px,
            image_format=image.image_format,
            jpeg_quality=image.jpeg_quality,
        )

    @torch.inference_mode()
    def evidence(self, tiles: np.ndarray) -> np.ndarray:
        """Evidence of each patch of one image's tiles.

        Images are never batched with each other: the sums of a convolution would depend on the batch.

        Args:
            tiles: (T, 3, H, W) uint8, from `cut_tiles`.

        Returns:
            (T * H/p * W/p,) float32, p the side of a patch.
        """
        signatures = self.signature(self.backbone.embed(tiles))  # (E, K, m)
        values = patch_evidence(signatures, self.bank.signatures, self.bank.term, self.signature.width)  # (E, K)
        return values.mean(0).cpu().numpy()


def load_backbone(assets: model_assets.Assets) -> Backbone:
    """The backbone of checked assets, with its weights; they need no signature and no bank."""
    found = assets.manifest.get("backbone")
    description = found if isinstance(found, dict) else {}
    try:
        backbone = make_backbone(description.get("name"), description.get("options", {}))
    except ValueError as error:
        raise model_assets.AssetError(f"{assets.folder / model_assets.MANIFEST}: backbone: {error}") from error
    backbone.load_state_dict(assets.tensors(BACKBONE_FILE, backbone.state_dict()), assign=True)
    return backbone


def load_model(assets: model_assets.Assets) -> tuple[Backbone, Signature]:
    """The backbone and the signature of checked assets, with their weights."""
    if SIGNATURE_FILE not in assets.manifest["files"]:
        raise model_assets.AssetError(
            f"{assets.folder}: an extractor, not trained yet: run `mdmf train --backbone_from {assets.folder}`"
        )
    backbone = load_backbone(assets)
    try:
        # A size that only claims to be is found before memory is taken for it.
        with torch.device("meta"):
            signature = Signature(**assets.manifest["signature"])
    except _UNFIT as error:
        raise _unfit(assets, "signature", error) from error
    signature.load_state_dict(assets.tensors(SIGNATURE_FILE, signature.state_dict()), assign=True)
    if backbone.embedding_dim != signature.mean.numel():
        raise model_assets.AssetError(
            f"{assets.folder}: expected a signature of {backbone.embedding_dim} channels,"
            f" found {signature.mean.numel()}"
        )
    return backbone, signature


def load_bank(assets: model_assets.Assets) -> Bank:
    """The bank of checked assets."""
    try:
        with torch.device("meta"):
            template = Bank.template(**assets.manifest["bank"])
    except _UNFIT as error:
        raise _unfit(assets, "bank", error) from error
    return Bank(**assets.tensors(BANK_FILE, template))


def _unfit(assets: model_assets.Assets, part: str, error: Exception) -> model_assets.AssetError:
    [reason] = f"{type(error).__name__}: {error}".splitlines()[:1]
    return model_assets.AssetError(f"{assets.folder / model_assets.MANIFEST}: {part}: {reason}")


def pick_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one; `cuda` without CUDA is an error, never a silent fall-back."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device here; use --device auto or cpu")
    return torch.device(device)
