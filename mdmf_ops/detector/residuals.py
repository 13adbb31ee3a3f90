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
    # The filter is linear: what it leaves of luma and of the differences follows from what it leaves of R, G and B.
    residuals = _high_pass(tiles)
    luma = _luma(residuals)
    red, _green, blue = residuals.unbind(1)
    statistics = []
    for residual, lags in ((luma, _LUMA_LAGS), (blue - luma, _CHROMA_LAGS), (red - luma, _CHROMA_LAGS)):
        variance = _patch_means(residual.square(), patch_px) + _LEAST_VARIANCE
        statistics.append(variance.log())
        padded = F.pad(residual, (_MAX_LAG,) * 4, mode="reflect")
        height, width = residual.shape[1:]
        for down, right in lags:
            top, left = _MAX_LAG + down, _MAX_LAG + right
            shifted = padded[:, top : top + height, left : left + width]
            statistics.append(_patch_means(residual * shifted, patch_px) / variance)
    channels = _channel_correlations(residuals, patch_px)
    return torch.cat([torch.stack(statistics, 1), channels, _log_energies(_luma(tiles), patch_px)], dim=1)


def _luma(planes: Tensor) -> Tensor:
    """(T, 3, H, W) -> (T, H, W)."""
    red, green, blue = planes.unbind(1)
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _high_pass(planes: Tensor) -> Tensor:
    """A pixel less the mean of the 3 x 3 around it."""
    padded = F.pad(planes, (1, 1, 1, 1), mode="reflect")
    # Rows and columns one after the other, as sums of whole planes: many times faster than `avg_pool2d`.
    rows = padded[:, :, :-2] + padded[:, :, 1:-1]
    rows += padded[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1]
    around += rows[..., 2:]
    return torch.sub(planes, around, alpha=1 / 9)


def _patch_means(planes: Tensor, patch_px: int) -> Tensor:
    """(..., H, W) -> (..., H/p, W/p)."""
    rows = planes.unflatten(-2, (-1, patch_px)).sum(-2)
    return rows.unflatten(-1, (-1, patch_px)).sum(-1) / patch_px**2


def _channel_correlations(residuals: Tensor, patch_px: int) -> Tensor:
    """(T, 3, H, W) -> (T, 3, H/p, W/p): of red with green, green with blue, blue with red."""
    variance = _patch_means(residuals.square(), patch_px) + _LEAST_VARIANCE
    others = residuals.roll(-1, dims=1)
    return _patch_means(residuals * others, patch_px) / (variance * variance.roll(-1, dims=1)).sqrt()


def _log_energies(luma: Tensor, patch_px: int) -> Tensor:
    """(T, H, W) -> (T, 63, H/p, W/p): mean energy of each frequency over the blocks in a patch."""
    padded = F.pad(luma, ((_DCT_PX - _DCT_STRIDE_PX) // 2,) * 4)
    blocks = padded.unfold(1, _DCT_PX, _DCT_STRIDE_PX).unfold(2, _DCT_PX, _DCT_STRIDE_PX)  # (T, h, w, 8, 8)
    frequencies = blocks.flatten(3).flatten(0, 2) @ _dct_basis(luma).T
    energies = frequencies.square().view(*blocks.shape[:3], -1)  # (T, h, w, 63)
    in_patch = patch_px // _DCT_STRIDE_PX
    energies = energies.unflatten(1, (-1, in_patch)).sum(2).unflatten(2, (-1, in_patch)).sum(3) / in_patch**2
    return (energies + _LEAST_ENERGY).log().permute(0, 3, 1, 2)


def _dct_basis(like: Tensor) -> Tensor:
    """(63, 64): the orthonormal DCT-II's basis images, without the constant one."""
    n = torch.arange(_DCT_PX, dtype=torch.float64)
    basis = torch.cos(torch.pi * (2 * n + 1) * n[:, None] / (2 * _DCT_PX)) * (2 / _DCT_PX) ** 0.5
    basis[0] /= 2**0.5
    return torch.einsum("ay,bx->abyx", basis, basis).reshape(-1, _DCT_PX**2)[1:].to(like)
