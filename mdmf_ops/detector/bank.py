"""The reference bank: signatures of patches of real images, against which every image is compared."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mdmf_ops.detector.mmd import gaussian_kernel, kernel_mean, mean_to_others, patch_evidence

LARGEST_ERROR = 1e-3
"""Of any score, by a compressed bank: real images' scores deviate by .3."""

_FEWEST, _MOST = 8, 1024
"""Prototypes of a compressed bank."""

_CANDIDATES = 4096
"""Signatures of a bank, at most, among which prototypes are sought."""

_LEAST_POWER = 1e-9
"""Squared norm of a kernel less its part in a span, under which it is in the span but for rounding."""

_ROUNDING = 2.0**-22
"""Of a kernel in float32, with the norms and the product that it is made of."""


@dataclass(frozen=True)
class Bank:
    """Signatures of real patches with their own, constant MMD term.

    Attributes:
        signatures: (E, N, m) float32, for each of the signature's E views.
        term: (E, 1) float32, `1/(N(N-1)) sum_{i != j} k(r_i, r_j)` under the kernels the bank was built for; of a
            compressed bank that of the whole one.
        weights: (E, N) float32 of a compressed bank, whose signatures stand for those of a larger one; else None.
        compressed_from: how many signatures these stand for; None: for themselves.
        error_bound: that no score exceeds by which a compressed bank's differ from the whole one's.
    """

    signatures: Tensor
    term: Tensor
    weights: Tensor | None = None
    compressed_from: int | None = None
    error_bound: float = 0.0

    @classmethod
    def build(cls, signatures: Tensor, width: Tensor | float) -> "Bank":
        """Computes the bank's own term: once, here, in float64. Costs O(N^2) time."""
        term = mean_to_others(signatures.double(), width).mean(-1, keepdim=True)
        return cls(signatures.float().contiguous(), term.float())

    @torch.no_grad()
    def compressed(self, width: Tensor, largest_error: float = LARGEST_ERROR) -> "Bank":
        """The bank as few weighted signatures that give nearly the same scores, or itself where few do not.

        Of the bank an image's score needs the mean kernel to it, a function mu of the signature. Of the bank's
        signatures those are taken one after the other that bring a weighted sum nearest to mu (a greedy Nystrom
        method; Santin and Haasdonk 2017, arXiv 1612.02672), with the best weights there are: those of the projection
        of mu onto the span of their kernels.

        What is left has a norm in the kernel's space which no value of it exceeds. So there is a bound for whatever
        image and each patch of it: `|score - score'| <= mean over views of 2 ||mu - mu'||`, and what float32 rounds.

        Args:
            width: (E, 1, 1) of the kernels that the bank was built for.
            largest_error: the bound that the fewest signatures are sought for. Costs O(N^2) time, like building.
        """
        count = self.signatures.shape[1]
        stride = -(-count // _CANDIDATES)
        paths = [_Path(view, stride, w) for view, w in zip(self.signatures.double(), width.double(), strict=True)]
        size = _FEWEST
        while 2 * size <= count and size <= _MOST:
            views = [path.prototypes(size) for path in paths]
            bound = 2 * sum(error for _, _, error in views) / len(views)
            if bound <= largest_error:
                signatures, weights = (torch.stack([view[i] for view in views]) for i in (0, 1))
                return Bank(signatures, self.term, weights, count, bound)
            size *= 2
        return self

    def evidence(self, signatures: Tensor, width: Tensor | float) -> Tensor:
        """(E, K, m) -> (E, K): evidence of the patches of one image; see `patch_evidence`."""
        return patch_evidence(signatures, self.signatures, self.term, width, self.weights)

    def to(self, device: torch.device) -> "Bank":
        """The same bank on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """What a file of the bank holds, by name."""
        tensors = {"signatures": self.signatures, "term": self.term}
        return tensors if self.weights is None else tensors | {"weights": self.weights}

    def description(self) -> dict[str, Any]:
        """What a manifest says of the bank."""
        views, size, signature_dim = self.signatures.shape
        shape = {"views": views, "size": size, "signature_dim": signature_dim}
        origin = {"compressed_from": self.compressed_from, "error_bound": self.error_bound}
        return shape if self.weights is None else shape | origin

    @staticmethod
    def template(
        views: int, size: int, signature_dim: int, compressed_from: int | None = None, error_bound: float = 0.0
    ) -> dict[str, Tensor]:
        """Names, shapes and dtypes that a file of a bank must have, by what the manifest says of it."""
        tensors = {"signatures": torch.empty(views, size, signature_dim), "term": torch.empty(views, 1)}
        return tensors if compressed_from is None else tensors | {"weights": torch.empty(views, size)}


class _Path:
    """Greedy choice of signatures of one view, in the Newton basis: an orthonormal one of their span.

    Args:
        bank: (N, m) float64.
        stride: of the signatures that may be chosen.
        width: of the kernel.
    """

    def __init__(self, bank: Tensor, stride: int, width: Tensor):
        self._width = width
        self._candidates = bank[::stride]
        self._mean = kernel_mean(self._candidates, bank, width)  # mu at each candidate
        self._squared_norm = (1 + (len(bank) - 1) * mean_to_others(bank, width).mean()) / len(bank)  # of mu
        self._left = self._mean.clone()  # of mu, outside the span
        self._power = torch.ones_like(self._mean)  # squared norm of what the span lacks of each candidate's kernel
        self._basis = torch.zeros(len(self._mean), min(_MOST, len(self._mean)), dtype=self._mean.dtype)
        self._chosen: list[int] = []
        self._coefficients: list[Tensor] = []

    def prototypes(self, size: int) -> tuple[Tensor, Tensor, float]:
        """(size, m) and (size,) float32: signatures and weights, and how far mu' is off; sizes must ascend."""
        while len(self._chosen) < size and self._power.max() >= _LEAST_POWER:
            self._step()
        count = len(self._chosen)
        triangle = self._basis[self._chosen, :count]
        coefficients = torch.stack(self._coefficients)[:, None]
        weights = torch.linalg.solve_triangular(triangle.T, coefficients, upper=True).squeeze(1).float()
        # Of what is stored, rounding and all.
        chosen, w = self._candidates[self._chosen], weights.double()
        own = w @ gaussian_kernel(chosen, chosen, self._width) @ w
        error = (self._squared_norm - 2 * w @ self._mean[self._chosen] + own).clamp_min(0).sqrt()
        rounding = _ROUNDING * w.abs().sum()
        # Where fewer are enough, the rest are some signature without weight.
        padded = self._chosen + self._chosen[:1] * (size - count)
        return self._candidates[padded].float(), F.pad(weights, (0, size - count)), float(error + rounding)

    def _step(self) -> None:
        """Takes the candidate along which the most of mu is left."""
        gain = self._left.abs() / self._power.clamp_min(_LEAST_POWER).sqrt()
        gain[self._power < _LEAST_POWER] = -1
        best, known = int(gain.argmax()), len(self._chosen)
        column = gaussian_kernel(self._candidates, self._candidates[best : best + 1], self._width).squeeze(-1)
        column = (column - self._basis[:, :known] @ self._basis[best, :known]) / self._power[best].sqrt()
        self._basis[:, known] = column
        self._coefficients.append(self._left[best] / self._power[best].sqrt())
        self._left -= self._coefficients[-1] * column
        self._power -= column.square()
        self._chosen.append(best)
