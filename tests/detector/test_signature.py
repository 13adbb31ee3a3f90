"""Signatures against their definition in float64."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from mdmf_ops.detector.signature import Signature


@pytest.mark.parametrize("hidden_dim", [0, 7], ids=["linear", "mlp"])
def test_each_view_is_mapped_by_its_own_phi(hidden_dim):
    torch.manual_seed(0)
    signature = Signature(6, hidden_dim, 3, [(0, 4), (2, 6)], dropout=0.5).eval()
    signature.mean.copy_(torch.randn(6))
    signature.scale.copy_(torch.rand(6) + 0.5)
    embeddings = torch.randn(5, 6)
    w = {name: value.double().numpy() for name, value in signature.state_dict().items()}
    with torch.no_grad():
        found = signature(embeddings)
    assert found.shape == (2, 5, 3)
    for view, (start, stop) in enumerate(signature.views):
        x = ((embeddings.double().numpy() - w["mean"]) / w["scale"])[:, start:stop]
        if hidden_dim:
            x = x @ w[f"first.{view}.weight"].T + w[f"first.{view}.bias"]
            x *= (1 + erf(x / np.sqrt(2))) / 2  # GELU
        expected = x @ w[f"last.{view}.weight"].T + w[f"last.{view}.bias"]
        np.testing.assert_allclose(found[view].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [5, 1, -0.1, float("nan"), "x", None])
def test_a_dropout_that_is_no_share_is_refused(dropout):
    with pytest.raises((ValueError, TypeError)):
        Signature(6, 0, 1, dropout=dropout)


@pytest.mark.parametrize("views", [[(0, 7)], [(3, 3)], [(-1, 2)]])
def test_a_view_that_is_none_is_refused(views):
    with pytest.raises(ValueError, match="views"):
        Signature(6, 0, 1, views)
