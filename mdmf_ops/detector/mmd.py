"""Maximum Mean Discrepancy between an image's patch signatures and a bank of real ones.

Gretton et al. 2012, "A Kernel Two-Sample Test": the unbiased estimator of squared MMD for unequal sample
sizes. With S the K signatures of an image and R the N of the bank,

    MMD2_u = 1/(K(K-1)) sum_{i != j} k(s_i, s_j) + 1/(N(N-1)) sum_{i != j} k(r_i, r_j)
             - 2/(KN) sum_ij k(s_i, r_j)

The second term belongs to the bank alone: it is computed once, when the bank is built. The estimate is
unbiased and may therefore be negative. All functions are differentiable.

Kernels are summed up block by block: memory does not grow with the number of pairs, and a block stays in the cache.
"""

import torch
from torch import Tensor

_BLOCK = 256
"""Signatures on either side whose kernels are held at once, of a few views: the second-level cache holds them."""


def gaussian_kernel(a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
    """Gaussian kernel k(a, b) = exp(-|a - b|^2 / (2 width^2)).

    Args:
        a: (..., K, m) float.
        b: (..., N, m) float.
        width: l, in the units of the signatures, positive.

    Returns:
        (..., K, N) in (0, 1].
    """
    # Only differences count: near zero, where an image's own signatures then are, they are rounded least.
    origin = b[..., :1, :].detach()
    a, b = (a - origin) / width, (b - origin) / width
    # -|a - b|^2 / 2 is one matrix product of vectors that bring their norms along; rounding can leave it above zero,
    # which a kernel over 1 would follow.
    a = torch.cat([a, a.square().sum(-1, keepdim=True) / -2, torch.ones_like(a[..., :1])], -1)
    b = torch.cat([b, torch.ones_like(b[..., :1]), b.square().sum(-1, keepdim=True) / -2], -1)
    return (a @ b.transpose(-1, -2)).clamp_max_(0).exp_()


def kernel_mean(signatures: Tensor, bank: Tensor, width: Tensor | float, weights: Tensor | None = None) -> Tensor:
    """Mean kernel of each signature to a bank, or the weighted sum of them.

    Args:
        signatures: (..., K, m).
        bank: (..., N, m).
        weights: (..., N), of any sign; None is 1/N each.

    Returns:
        (..., K): `sum_j w_j k(s_i, r_j)`.
    """
    blocks = bank.split(_BLOCK, dim=-2)
    shares = [None] * len(blocks) if weights is None else weights.split(_BLOCK, dim=-1)
    sums = []
    for part in signatures.split(_BLOCK, dim=-2):
        kernels = (gaussian_kernel(part, block, width) for block in blocks)
        sums.append(
            sum(
                kernel.sum(-1) if share is None else (kernel @ share.unsqueeze(-1)).squeeze(-1)
                for kernel, share in zip(kernels, shares, strict=True)
            )
        )
    total = torch.cat(sums, -1)
    return total / bank.shape[-2] if weights is None else total


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
    parts = signatures.split(_BLOCK, dim=-2)
    sums = [0] * len(parts)
    for i, part in enumerate(parts):
        kernel = gaussian_kernel(part, part, width)
        # The diagonal is k(s, s) = 1 by definition; what rounding made of it is taken out exactly.
        sums[i] = sums[i] + kernel.sum(-1) - kernel.diagonal(dim1=-2, dim2=-1)
        for j in range(i + 1, len(parts)):
            kernel = gaussian_kernel(part, parts[j], width)
            sums[i], sums[j] = sums[i] + kernel.sum(-1), sums[j] + kernel.sum(-2)
    return torch.cat(sums, -1) / (count - 1)


def patch_evidence(
    signatures: Tensor,
    bank: Tensor,
    bank_term: Tensor | float,
    width: Tensor | float,
    weights: Tensor | None = None,
) -> Tensor:
    """Evidence of each patch, whose mean over the patches is the image's squared MMD to the bank.

    `e_i = mean_{j != i} k(s_i, s_j) - 2 mean_j k(s_i, r_j) + bank_term`: high where a patch lies away from
    the bank and near the other patches of its image. An exact additive map, no gradient and no threshold.

    Args:
        signatures: (..., K, m), K at least 2.
        bank: (..., N, m).
        bank_term: mean of `mean_to_others(bank, width)`, computed once; broadcasts over (..., K).
        width: of the Gaussian kernel.
        weights: (..., N) of a compressed bank; None is a mean.

    Returns:
        (..., K) float, each in (-2, 2).
    """
    return mean_to_others(signatures, width) - 2 * kernel_mean(signatures, bank, width, weights) + bank_term
