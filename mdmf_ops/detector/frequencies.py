"""How strong each frequency is in each patch: traces of decoders, where content is gone.

A generator's last layers up-sample, and leave a spectrum that cameras do not (Zhang et al. 2019, arXiv 1907.06515;
Frank et al. 2020, arXiv 2003.08685). Nothing here is learned.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_DCT_PX = 8
_STRIDE_PX = 4  # off the grid of JPEG blocks as well as on it
_LEAST_ENERGY = 0.1  # of pixels on the scale of 0-255: a flat patch stays finite

FREQUENCY_DIM = _DCT_PX**2 - 1


def log_energies(tiles: Tensor, patch_px: int) -> Tensor:
    """Log energies of the 63 frequencies of luma's 8 x 8 DCT: of each, the mean over the overlapping blocks of a patch.

    Args:
        tiles: (T, 3, H, W) float RGB of 0-255, H and W multiples of `patch_px`.

    Returns:
        (T, `FREQUENCY_DIM`, H/p, W/p), from log 0.1 to about 15.
    """
    red, green, blue = tiles.unbind(1)
    luma = (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    with torch.autocast("cuda" if luma.is_cuda else "cpu", enabled=False):  # a small energy is lost in bfloat16
        blocks = F.conv2d(luma[:, None], _dct_basis(luma), stride=_STRIDE_PX, padding=(_DCT_PX - _STRIDE_PX) // 2)
    return (F.avg_pool2d(blocks.square_(), patch_px // _STRIDE_PX) + _LEAST_ENERGY).log()


def _dct_basis(like: Tensor) -> Tensor:
    """(63, 1, 8, 8): the orthonormal DCT-II's basis images, without the constant one."""
    n = torch.arange(_DCT_PX, dtype=torch.float64)
    basis = torch.cos(torch.pi * (2 * n + 1) * n[:, None] / (2 * _DCT_PX)) * (2 / _DCT_PX) ** 0.5
    basis[0] /= 2**0.5
    return torch.einsum("ay,bx->abyx", basis, basis).reshape(-1, 1, _DCT_PX, _DCT_PX)[1:].to(like)
