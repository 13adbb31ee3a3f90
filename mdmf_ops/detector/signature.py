"""The Patch Forensic Signature: a small MLP from a patch embedding to the space where MMD is measured."""

import torch
from torch import Tensor, nn


class Signature(nn.Module):
    """Maps patch embeddings to Patch Forensic Signatures, phi: d -> m, and holds the kernel's width.

    Attributes:
        mean, scale: (d,) standardise the embeddings; fixed before training, saved with the weights.
        log_width: () log of the Gaussian kernel's width, learned with phi.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, signature_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("scale", torch.ones(embedding_dim))
        self.log_width = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(embedding_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, signature_dim))

    @property
    def width(self) -> Tensor:
        """l of the Gaussian kernel, positive, in the units of the signatures."""
        return self.log_width.exp()

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., d) float -> (..., m) float."""
        return self.mlp((embeddings - self.mean) / self.scale)
