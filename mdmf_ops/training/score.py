"""Scores of images whose embeddings are known."""

from collections.abc import Sequence

import numpy as np
import torch

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.features import Features


@torch.inference_mode()
def evidence_of(patches: np.ndarray, signature: Signature, bank: Bank) -> np.ndarray:
    """(K, d) embeddings of one image -> (K,) float32: evidence of each patch, as the detector computes it."""
    signatures = signature(torch.from_numpy(patches).float())
    return bank.evidence(signatures, signature.width).mean(0).numpy()


def score_features(features: Features, indices: Sequence[int], signature: Signature, bank: Bank) -> np.ndarray:
    """(len(indices),) float32: squared MMD of images whose embeddings are known, as the detector computes it."""
    return np.array([evidence_of(features.patches(i), signature, bank).mean() for i in indices], np.float32)
