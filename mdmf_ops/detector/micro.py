"""`micro`: the extractor of the embedded detector, the blocks of EfficientNet-Lite0 and frequencies."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.frequencies import FREQUENCY_DIM, log_energies
from mdmf_ops.images.tiles import TileGeometry


class MicroBackbone(Backbone):
    """The sixteen blocks of EfficientNet-Lite0 at three depths, and frequencies: statistics of each patch.

    Features of an ImageNet network travel well to unseen generators: fine texture at one depth, what things look like
    at the others. They hardly lose by three quarters of the resolution, which is half of the work; what a decoder
    leaves between neighbouring pixels is in the frequencies of the whole one (`log_energies`). How all of these vary
    over the image says more than any one patch: their means and deviations over the image follow. A signature sees each
    patch three times: its traces and fine texture alone, which are its own, all that is seen of it, and as its image.

    Weights come frozen from EfficientNet-Lite0 (Apache-2.0, see NOTICE) with batch normalisation folded into the
    convolutions, rounded to float16 in their file. On a CPU, `seen` and `embed` run the network by ONNX Runtime, which
    takes half of torch's time and lets other threads of Python run; `forward` is the definition, and what a GPU runs.
    """

    BLOCKS = (
        # expansion, kernel, stride, channels, read here
        (1, 3, 1, 16, False),
        (6, 3, 2, 24, False),
        (6, 3, 1, 24, False),
        (6, 5, 2, 40, True),
        (6, 5, 1, 40, False),
        (6, 3, 2, 80, False),
        (6, 3, 1, 80, False),
        (6, 3, 1, 80, False),
        (6, 5, 1, 112, False),
        (6, 5, 1, 112, False),
        (6, 5, 1, 112, False),
        (6, 5, 2, 192, True),
        (6, 5, 1, 192, False),
        (6, 5, 1, 192, False),
        (6, 5, 1, 192, False),
        (6, 3, 1, 320, True),
    )

    geometry = TileGeometry(patch_px=32, max_tile_px=512, max_tiles=4)
    stored_dtype = torch.float16
    _LOCAL_DIM = FREQUENCY_DIM + 2 * 40
    PATCH_DIM = _LOCAL_DIM + 192 + 320
    embedding_dim = 3 * PATCH_DIM
    views = ((0, _LOCAL_DIM), (0, PATCH_DIM), (PATCH_DIM, 3 * PATCH_DIM))

    def __init__(self):
        super().__init__()
        self.stem = _SameConv(3, 32, kernel=3, stride=2)
        blocks, channels = [], 32
        for expansion, kernel, stride, out_channels, _ in self.BLOCKS:
            blocks.append(_InvertedResidual(channels, out_channels, expansion, kernel, stride))
            channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}}

    def seen(self, tiles: np.ndarray) -> Tensor:
        """(K, f) float32, see `Backbone`; on a CPU with the weights of the first call, since they are frozen."""
        if next(self.parameters()).device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().seen(tiles)
        # One for each process: a forked child has its parent's session and none of that session's threads. It is kept
        # there, unused, since its destructor would wait for them for ever.
        session = self._sessions.get(os.getpid())
        if session is None:
            session = self._sessions[os.getpid()] = _onnx_session(self.state_dict())
        run = session.run
        return torch.from_numpy(np.concatenate([run(None, {"tiles": tile[None]})[0] for tile in tiles])).flatten(0, 2)

    def forward(self, tiles: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, H/32, W/32, PATCH_DIM) float32."""
        tiles = tiles.float()
        patch_px = self.geometry.patch_px
        grid = [side_px // patch_px for side_px in tiles.shape[2:]]
        statistics = [log_energies(tiles, patch_px).permute(0, 2, 3, 1)]
        x = (_three_quarters(tiles) - 127) / 128  # as EfficientNet-Lite was trained
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)
        stride = 2
        for block, (_, _, block_stride, _, read) in zip(self.blocks, self.BLOCKS, strict=True):
            x = block(x)
            stride *= block_stride
            if read:
                statistics += _patch_statistics(x, stride, grid)
        return torch.cat(statistics, dim=-1)

    def in_context(self, patches: Tensor) -> Tensor:
        """(K, PATCH_DIM) -> (K, 3 * PATCH_DIM): each patch, the image's mean, the image's deviation."""
        mean = patches.mean(0, keepdim=True)
        deviation = (patches - mean).square_().mean(0, keepdim=True).sqrt_()  # torch.std takes ten times as long
        return torch.cat([patches, mean.expand_as(patches), deviation.expand_as(patches)], dim=1)


def _onnx_session(weights: Mapping[str, Tensor]) -> onnxruntime.InferenceSession:
    """`MicroBackbone.forward` on as many threads as torch has; recipes/micro/graph.py writes the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in weights.values()]
    options.add_external_initializers(list(weights), values)
    graph = Path(__file__).with_name("micro.onnx").read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


_SHRUNK_PATCH_PX = 24
"""A patch as the network sees it: at three quarters of its resolution."""


def _three_quarters(tiles: Tensor) -> Tensor:
    """(T, C, H, W) -> (T, C, 3 H/4, 3 W/4): a pixel is the mean of the area that it covers.

    As a convolution: with an operation that resizes, the network takes a fifth more time in ONNX Runtime.
    """
    along = tiles.new_tensor([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]]) / 4
    weight = torch.einsum("ik,jl->ijkl", along, along).reshape(9, 1, 4, 4)
    channels = tiles.shape[1]
    return F.pixel_shuffle(F.conv2d(tiles, weight.repeat(channels, 1, 1, 1), stride=4, groups=channels), 3)


def _patch_statistics(x: Tensor, cell_px: int, grid: Sequence[int]) -> list[Tensor]:
    """Of each patch, each channel's mean over its cells, and their standard deviation; or the one cell at its centre.

    Args:
        x: (T, C, h, w).
        cell_px: how many pixels of what the network sees a cell spans.
        grid: rows and columns of patches in a tile.

    Returns:
        One or two of (T, rows, columns, C).
    """
    if cell_px > _SHRUNK_PATCH_PX:
        rows, columns = (
            (2 * torch.arange(patches, device=x.device) + 1) * _SHRUNK_PATCH_PX // (2 * cell_px) for patches in grid
        )
        return [x.permute(0, 2, 3, 1)[:, rows][:, :, columns]]
    cells = _SHRUNK_PATCH_PX // cell_px
    mean = F.avg_pool2d(x, cells)
    variance = F.avg_pool2d(x.square(), cells) - mean.square()
    # Rounding may leave the variance of a flat patch below zero.
    return [statistic.permute(0, 2, 3, 1) for statistic in (mean, variance.clamp_min(1e-8).sqrt())]


class _SameConv(nn.Module):
    """Convolution that pads as TensorFlow's SAME does: the odd pixel goes right and below."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, groups=groups)
        self.overlap = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        bottom, right = (self.overlap + -side % stride for side in x.shape[2:])
        return self.conv(F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)))


class _InvertedResidual(nn.Module):
    """MBConv of EfficientNet-Lite: no squeeze and excitation, ReLU6."""

    def __init__(self, channels: int, out_channels: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = channels * expansion
        self.expand = nn.Conv2d(channels, wide, 1) if expansion > 1 else None
        self.depthwise = _SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Conv2d(wide, out_channels, 1)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y
