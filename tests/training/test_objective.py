"""The loss that a signature learns from, against its definition image by image."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.mmd import patch_evidence
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.objective import ImageMmdLoss


@pytest.mark.parametrize("views", [[(0, 6)], [(0, 4), (2, 6)]])
def test_the_loss_is_logistic_in_the_score_that_the_detector_will_give(views):
    torch.manual_seed(0)
    signature, loss = Signature(6, 8, 3, views), ImageMmdLoss(len(views))
    patches, bank = torch.randn(4, 5, 6), torch.randn(20, 6)
    generated = torch.tensor([0.0, 1.0, 1.0, 0.0])
    value = loss(signature, patches, generated, bank).item()

    with torch.no_grad():
        built = Bank.build(signature(bank), signature.width)
        losses = []
        for (image, label), view in itertools.product(zip(patches, generated, strict=True), range(len(views))):
            own = signature(image)[view]
            mmd2 = patch_evidence(own, built.signatures[view], built.term[view], signature.width[view]).mean()
            logit = loss.gain[view, 0] * mmd2 + loss.bias[view, 0]
            target = 0.98 if label else 0.02
            losses.append(F.softplus(logit) - target * logit)
    assert abs(value - np.mean(losses)) < 1e-5


def test_a_step_down_the_gradient_lowers_the_loss():
    torch.manual_seed(1)
    signature, loss = Signature(6, 8, 3), ImageMmdLoss()
    patches, bank = torch.randn(8, 5, 6), torch.randn(20, 6)
    patches[4:] += 1
    generated = torch.tensor([0.0] * 4 + [1.0] * 4)
    parameters = [*signature.parameters(), *loss.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    values = []
    for _ in range(20):
        value = loss(signature, patches, generated, bank)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
