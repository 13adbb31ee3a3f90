"""Maximum Mean Discrepancy between an image's patch signatures and a bank of real ones.

Gretton et al. 2012, "A Kernel Two-Sample Test": the unbiased estimator of squared MMD for unequal sample
sizes. With S the K signatures of an image and R the N of the bank,

    MMD2_u = 1/(K(K-1)) sum_{i != j} k(s_i, s_j) + 1/(N(N-1)) sum_{i != j} k(r_i, r_j)
             - 2/(KN) sum_ij k(s_i, r_j)

The second term belongs to the bank alone: it is computed once, when the bank is built. The estimate is
unbiased and may therefore be negative. All functions are differentiable.
"""

import torch
from torch import Tensor


def gaussian_kernel(a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
    """Gaussian kernel k(a, b) = exp(-|a - b|^2 / (2 width^2)).

    Args:
        a: (..., K, m) float.
        b: (..., N, m) float.
        width: l, in the units of the signatures, positive.

    Returns:
        (..., K, N) in (0, 1].
    """
    # |a|^2 + |b|^2 - 2ab is one matrix product; rounding can leave it below zero, which a kernel over 1
    # would follow.
    squared = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2) - 2 * (a @ b.transpose(-1, -2))
    return torch.exp(squared.clamp_min(0) / (-2 * width**2))


def mean_to_others(signatures: Tensor, width: Tensor | float) -> Tensor:
    """Mean kernel of each signature to all others of its set: the unbiased within term, by signature.

    Args:
        signatures: (..., K, m), K at least 2.

    Returns:
        (..., K): `1/(K-1) sum_{j != i} k(s_i, s_j)`. Its mean over a bank is the bank's own term.
    """
    count = signatures.shape[-2]
    if count < 2:
        raise ValueError(f"the unbiased MMD needs at least 2 signatures, got {count}")
    kernel = gaussian_kernel(signatures, signatures, width)
    # The diagonal is k(s, s) = 1 by definition; what rounding made of it is taken out exactly.
    return (kernel.sum(-1) - kernel.diagonal(dim1=-2, dim2=-1)) / (count - 1)


def patch_evidence(signatures: Tensor, bank: Tensor, bank_term: Tensor | float, width: Tensor | float) -> Tensor:
    """Evidence of each patch, whose mean over the patches is the image's squared MMD to the bank.

    `e_i = mean_{j != i} k(s_i, s_j) - 2 mean_j k(s_i, r_j) + bank_term`: high where a patch lies away from
    the bank and near the other patches of its image. An exact additive map, no gradient and no threshold.

    Args:
        signatures: (..., K, m), K at least 2.
        bank: (..., N, m).
        bank_term: mean of `mean_to_others(bank, width)`, computed once; broadcasts over (..., K).
        width: of the Gaussian kernel.

    Returns:
        (..., K) float, each in (-2, 2).
    """
    to_bank = gaussian_kernel(signatures, bank, width).mean(-1)  # (..., K)
    return mean_to_others(signatures, width) - 2 * to_bank + bank_term
