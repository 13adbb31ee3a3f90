"""What the signature is trained on: the image's own MMD score, as the detector will compute it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdmf_ops.detector.mmd import mean_to_others, patch_evidence
from mdmf_ops.detector.signature import Signature


class ImageMmdLoss(nn.Module):
    """Logistic loss on `gain * MMD2 + bias`: train on what is decided.

    The bank is drawn from the same batch's real patches and passes through the signature with its gradient, as do
    the images' own patches, so that real ones draw together while generated ones move away.
    """

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(5.0))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def forward(self, signature: Signature, patches: Tensor, generated: Tensor, bank_patches: Tensor) -> Tensor:
        """
        Args:
            patches: (B, K, d) embeddings of K patches of each of B images.
            generated: (B,) 1. for generated, 0. for real.
            bank_patches: (N, d) embeddings of patches of real images.

        Returns:
            () mean loss, nonnegative.
        """
        bank = signature(bank_patches)  # (N, m)
        bank_term = mean_to_others(bank, signature.width).mean()
        mmd2 = patch_evidence(signature(patches), bank, bank_term, signature.width).mean(-1)  # (B,)
        return F.binary_cross_entropy_with_logits(self.gain * mmd2 + self.bias, generated)
