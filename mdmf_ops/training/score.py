"""Scores of images whose embeddings are known."""

from collections.abc import Sequence

import numpy as np
import torch

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.mmd import patch_evidence
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.features import Features


@torch.inference_mode()
def score_features(features: Features, indices: Sequence[int], signature: Signature, bank: Bank) -> np.ndarray:
    """(len(indices),) float32: squared MMD of images whose embeddings are known, as the detector computes it."""
    scores = []
    for index in indices:
        signatures = signature(torch.from_numpy(features.patches(index)).float())
        scores.append(patch_evidence(signatures, bank.signatures, bank.term, signature.width).mean().item())
    return np.array(scores, np.float32)
