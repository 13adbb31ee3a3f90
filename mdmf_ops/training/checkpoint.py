"""A published DINOv2 checkpoint to a folder that lends its extractor to `mdmf train`."""

import dataclasses
import datetime
import json
from pathlib import Path

import safetensors.torch
import torch
import transformers

import model_assets
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.detector import BACKBONE_FILE, load_backbone
from mdmf_ops.detector.dinov2 import DEFAULT_TILE_PX, Dinov2Backbone, Dinov2Options
from mdmf_ops.training.train import save_tensors
from model_assets import AssetError
from model_assets.fetch import Checkpoint

_MAX_CONFIG_BYTES = 1 << 20


def save_extractor(folder: Path, checkpoint: Checkpoint, tile_px: int = DEFAULT_TILE_PX) -> model_assets.Assets:
    """Writes a checkpoint's weights, with a manifest that says where they are from, into a new folder.

    The tensors are float32 under the names of `Dinov2Model`. What was written is loaded once, as `mdmf train` will.

    Args:
        folder: must hold no detector yet.
        tile_px: longest side of a tile, a multiple of 14.

    Raises:
        AssetError: the checkpoint is damaged or no DINOv2 that is read here, or the folder is taken.
    """
    if (folder / model_assets.MANIFEST).exists():
        raise AssetError(f"{folder}: a detector lies there already; name another folder")
    options = read_options(checkpoint.config, tile_px)
    backbone = read_weights(checkpoint.weights, options)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / BACKBONE_FILE, backbone.state_dict())
    source = {
        "uri": checkpoint.source,
        "revision": checkpoint.revision,
        "weights_sha256": checkpoint.weights_sha256,
    }
    assets = model_assets.write_assets(
        folder,
        options.name,
        [BACKBONE_FILE],
        {
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "backbone": {"name": options.name, "options": dataclasses.asdict(options), "source": source},
        },
    )
    load_backbone(assets)
    return assets


def read_options(path: Path, tile_px: int) -> Dinov2Options:
    """Options from a checkpoint's configuration. Raises AssetError naming the file."""
    if (size := path.stat().st_size) > _MAX_CONFIG_BYTES:
        raise AssetError(f"{path}: expected at most {_MAX_CONFIG_BYTES} bytes, found {size}")
    try:
        return Dinov2Options.from_checkpoint(json.loads(path.read_bytes()), tile_px)
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path}: {error}") from error


def read_weights(path: Path, options: Dinov2Options) -> Backbone:
    """The extractor with a checkpoint's weights.

    Published files have other names than today's `Dinov2Model`, and SwiGLU's two matrices in one: `transformers`
    knows how they map. Raises AssetError naming a tensor that is missing, unknown or of another shape.
    """
    try:
        published = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise AssetError(f"{path}: not a safetensors file: {error}") from error
    transformers.logging.set_verbosity_error()  # what does not fit is told below, in a line
    transformers.logging.disable_progress_bar()
    model, report = transformers.Dinov2Model.from_pretrained(
        None,
        config=options.config(),
        state_dict=published,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # else it raises over many lines
    )
    for what in ("missing", "unexpected", "mismatched"):
        if tensors := sorted(report[f"{what}_keys"]):
            raise AssetError(f"{path}: {len(tensors)} {what} tensors, the first {tensors[0]}")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise AssetError(f"{path}: {name}: expected finite values, found NaN or infinity")
    backbone = Dinov2Backbone(options.name, dataclasses.asdict(options))
    backbone.model.load_state_dict(model.state_dict(), assign=True)
    return backbone
