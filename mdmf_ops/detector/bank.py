"""The reference bank: signatures of patches of real images, against which every image is compared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mdmf_ops.detector.mmd import mean_to_others


@dataclass(frozen=True)
class Bank:
    """Signatures of real patches with their own, constant MMD term.

    Attributes:
        signatures: (E, N, m) float32, for each of the signature's E views.
        term: (E, 1) float32, `1/(N(N-1)) sum_{i != j} k(r_i, r_j)` under the kernels the bank was built for.
    """

    signatures: Tensor
    term: Tensor

    @classmethod
    def build(cls, signatures: Tensor, width: Tensor | float) -> "Bank":
        """Computes the bank's own term: once, here, in float64. Costs O(N^2) time and memory."""
        term = mean_to_others(signatures.double(), width).mean(-1, keepdim=True)
        return cls(signatures.float().contiguous(), term.float())

    def tensors(self) -> dict[str, Tensor]:
        """What a file of the bank holds, by name."""
        return {"signatures": self.signatures, "term": self.term}

    @staticmethod
    def template(views: int, size: int, signature_dim: int) -> dict[str, Tensor]:
        """Names, shapes and dtypes that a file of a bank must have."""
        return {"signatures": torch.empty(views, size, signature_dim), "term": torch.empty(views, 1)}
