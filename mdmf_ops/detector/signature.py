"""The Patch Forensic Signature: small maps from a patch embedding to the spaces where MMD is measured."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_VIEWS = 64
"""More than any extractor has; each costs a moment to make."""


class Signature(nn.Module):
    """Maps patch embeddings to Patch Forensic Signatures, phi: d -> m, and holds the kernels' widths.

    There is one phi for each view of the embedding, with a kernel of its own; the detector's kernel is their mean, so
    that its MMD and its evidence are the means of theirs. A view is a range of the embedding's numbers: what is seen of
    a patch alone, say, and what is seen of it in its surroundings.

    Args:
        embedding_dim: d.
        hidden_dim: of each MLP; 0 makes phi linear.
        signature_dim: m.
        views: (start, stop) of each of the E views; None is one of all numbers.
        dropout: share of the embedding's and of the hidden numbers that each training step leaves out.

    Attributes:
        mean, scale: (d,) standardise the embeddings; fixed before training, saved with the weights.
        log_width: (E,) log of the Gaussian kernels' widths, learned with phi.

    Raises:
        ValueError: a view is empty or reaches beyond the embedding, there are more than 64 of them, or dropout is no
            share below 1.
    """

    def __init__(
        self,
        embedding_dim: int,
        hidden_dim: int,
        signature_dim: int,
        views: Sequence[Sequence[int]] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.views = [(start, stop) for start, stop in views or [(0, embedding_dim)]]
        if len(self.views) > _MOST_VIEWS:
            raise ValueError(f"{len(self.views)} views, expected at most {_MOST_VIEWS}")
        if not all(0 <= start < stop <= embedding_dim for start, stop in self.views):
            raise ValueError(f"views {self.views} of an embedding of {embedding_dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout of {dropout}")
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("scale", torch.ones(embedding_dim))
        self.log_width = nn.Parameter(torch.zeros(len(self.views)))
        sizes = [stop - start for start, stop in self.views]
        self.first = nn.ModuleList(nn.Linear(size, hidden_dim) for size in sizes if hidden_dim)
        self.last = nn.ModuleList(nn.Linear(hidden_dim or size, signature_dim) for size in sizes)

    @property
    def width(self) -> Tensor:
        """(E, 1, 1): l of the Gaussian kernels, positive, in the units of the signatures."""
        return self.log_width.exp()[:, None, None]

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., d) float -> (E, ..., m) float."""
        x = F.dropout((embeddings - self.mean).div_(self.scale), self.dropout, self.training)
        seen = [x[..., start:stop] for start, stop in self.views]
        if self.first:
            hidden = (F.gelu(first(view)) for first, view in zip(self.first, seen, strict=True))
            seen = [F.dropout(view, self.dropout, self.training) for view in hidden]
        return torch.stack([last(view) for last, view in zip(self.last, seen, strict=True)])
