"""What the signature is trained on: the image's own MMD score, as the detector will compute it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdmf_ops.detector.mmd import mean_to_others, patch_evidence
from mdmf_ops.detector.signature import Signature

LABEL_SMOOTHING = 0.02
"""Of a label, this much is given to the other class: no image is worth being right about at any price."""


class ImageMmdLoss(nn.Module):
    """Logistic loss on `gain * MMD2 + bias`, for each view of the signature: train on what is decided.

    The bank is drawn from the same batch's real patches and passes through the signature with its gradient, as do
    the images' own patches, so that real ones draw together while generated ones move away.
    """

    def __init__(self, views: int = 1):
        super().__init__()
        self.gain = nn.Parameter(torch.full((views, 1), 5.0))
        self.bias = nn.Parameter(torch.full((views, 1), -1.0))

    def forward(self, signature: Signature, patches: Tensor, generated: Tensor, bank_patches: Tensor) -> Tensor:
        """
        Args:
            patches: (B, K, d) embeddings of K patches of each of B images.
            generated: (B,) 1. for generated, 0. for real.
            bank_patches: (N, d) embeddings of patches of real images.

        Returns:
            () loss, nonnegative: mean over the images and the views. Each view learns as if it were alone.
        """
        width = signature.width  # (E, 1, 1)
        bank = signature(bank_patches)  # (E, N, m)
        bank_term = mean_to_others(bank, width).mean(-1)[:, None, None]  # (E, 1, 1)
        evidence = patch_evidence(signature(patches), bank[:, None], bank_term, width[:, None])  # (E, B, K)
        logits = self.gain * evidence.mean(-1) + self.bias  # (E, B)
        targets = generated * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
        return F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits))
