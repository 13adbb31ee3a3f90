"""Statistics of what a high-pass filter leaves of each patch: traces of decoders, where content is gone.

A generator's last layers up-sample, and leave neighbouring pixels correlated in ways that cameras do not (Zhang et al.
2019, arXiv 1907.06515; Corvi et al. 2023, arXiv 2211.00680). Nothing here is learned.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA_LAGS = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (1, -1), (2, 2), (2, -2))
_CHROMA_LAGS = ((0, 1), (1, 0), (1, 1))
_MAX_LAG = 4
_DCT_PX = 8
_DCT_STRIDE_PX = 4  # off the grid of JPEG blocks as well as on it
_LEAST_VARIANCE = 0.02  # of residuals on the scale of 0-255: a flat patch stays finite
_LEAST_ENERGY = 0.1

RESIDUAL_DIM = 3 + len(_LUMA_LAGS) + 2 * len(_CHROMA_LAGS) + 3 + _DCT_PX**2 - 1


def residual_statistics(tiles: Tensor, patch_px: int) -> Tensor:
    """Statistics of high-pass residuals and of frequencies, patch by patch.

    Args:
        tiles: (T, 3, H, W) float RGB of 0-255, H and W multiples of `patch_px`.

    Returns:
        (T, `RESIDUAL_DIM`, H/p, W/p): log variances of the residuals of luma and of two chroma differences, their
        autocorrelations at the lags above, the correlations of the residuals of R, G and B, and log energies of the
        63 frequencies of luma's 8 x 8 DCT.
    """
    luma = (tiles * tiles.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    statistics = []
    for plane, lags in ((luma, _LUMA_LAGS), (tiles[:, 2:] - luma, _CHROMA_LAGS), (tiles[:, :1] - luma, _CHROMA_LAGS)):
        residual = _high_pass(plane)
        variance = F.avg_pool2d(residual.square(), patch_px) + _LEAST_VARIANCE
        statistics.append(variance.log())
        padded = F.pad(residual, (_MAX_LAG,) * 4, mode="reflect")
        height, width = residual.shape[2:]
        for down, right in lags:
            top, left = _MAX_LAG + down, _MAX_LAG + right
            shifted = padded[:, :, top : top + height, left : left + width]
            statistics.append(F.avg_pool2d(residual * shifted, patch_px) / variance)
    statistics.append(_channel_correlations(_high_pass(tiles), patch_px))
    statistics.append(_log_energies(luma, patch_px))
    return torch.cat(statistics, dim=1)


def _high_pass(planes: Tensor) -> Tensor:
    """A pixel less the mean of the 3 x 3 around it."""
    return planes - F.avg_pool2d(F.pad(planes, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def _channel_correlations(residuals: Tensor, patch_px: int) -> Tensor:
    """(T, 3, H, W) -> (T, 3, H/p, W/p): of red with green, green with blue, blue with red."""
    variance = F.avg_pool2d(residuals.square(), patch_px) + _LEAST_VARIANCE
    others = residuals.roll(-1, dims=1)
    return F.avg_pool2d(residuals * others, patch_px) / (variance * variance.roll(-1, dims=1)).sqrt()


def _log_energies(luma: Tensor, patch_px: int) -> Tensor:
    """(T, 1, H, W) -> (T, 63, H/p, W/p): mean energy of each frequency over the blocks in a patch."""
    frequencies = F.conv2d(luma, _dct_filters(luma), stride=_DCT_STRIDE_PX, padding=(_DCT_PX - _DCT_STRIDE_PX) // 2)
    return (F.avg_pool2d(frequencies.square(), patch_px // _DCT_STRIDE_PX) + _LEAST_ENERGY).log()


def _dct_filters(like: Tensor) -> Tensor:
    """(63, 1, 8, 8): the orthonormal DCT-II's basis images, without the constant one."""
    n = torch.arange(_DCT_PX, dtype=torch.float64)
    basis = torch.cos(torch.pi * (2 * n + 1) * n[:, None] / (2 * _DCT_PX)) * (2 / _DCT_PX) ** 0.5
    basis[0] /= 2**0.5
    return torch.einsum("ay,bx->abyx", basis, basis).reshape(-1, 1, _DCT_PX, _DCT_PX)[1:].to(like)
