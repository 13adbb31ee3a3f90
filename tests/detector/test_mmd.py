"""MMD against a float64 double loop, a closed form for Gaussians, and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from mdmf_ops.detector import mmd
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.mmd import gaussian_kernel, kernel_mean, mean_to_others, patch_evidence


@pytest.fixture(autouse=True, params=[4, 512], ids="blocks of {}".format)
def block(request, monkeypatch):
    """Blocks of a few signatures too, so that sets are of several, the last one smaller."""
    monkeypatch.setattr(mmd, "_BLOCK", request.param)
    return request.param


def loop_evidence(signatures, bank, width):
    """The definition, a pair at a time, in float64."""

    def kernel(a, b):
        return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (2 * width**2))

    bank_term = 0.0
    for i, a in enumerate(bank):
        for j, b in enumerate(bank):
            bank_term += kernel(a, b) if i != j else 0.0
    bank_term /= len(bank) * (len(bank) - 1)
    evidence = []
    for i, a in enumerate(signatures):
        within = sum(kernel(a, b) for j, b in enumerate(signatures) if i != j) / (len(signatures) - 1)
        cross = sum(kernel(a, b) for b in bank) / len(bank)
        evidence.append(within - 2 * cross + bank_term)
    return np.array(evidence)


def loop_mmd2(signatures, bank, width):
    return loop_evidence(signatures, bank, width).mean()


@pytest.fixture(params=[(2, 2, 1), (5, 9, 3), (17, 40, 8)], ids=str)
def sets(request):
    k, n, m = request.param
    rng = np.random.default_rng(k)
    return rng.normal(0.5, 1.2, (k, m)), rng.normal(0, 1, (n, m))


@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_evidence_is_the_double_loop(sets, width):
    signatures, bank = sets
    ours = Bank.build(torch.from_numpy(bank), width)
    evidence = patch_evidence(torch.from_numpy(signatures).float(), ours.signatures, ours.term, width)
    np.testing.assert_allclose(evidence.numpy(), loop_evidence(signatures, bank, width), atol=2e-6)


def test_mean_of_the_evidence_is_the_unbiased_mmd(sets):
    signatures, bank = (torch.from_numpy(a) for a in sets)

    def off_diagonal_mean(a):
        kernel = torch.exp(-torch.cdist(a, a).square() / 2)
        return (kernel.sum() - kernel.trace()) / (len(a) * (len(a) - 1))

    cross = torch.exp(-torch.cdist(signatures, bank).square() / 2).mean()
    expected = off_diagonal_mean(signatures) + off_diagonal_mean(bank) - 2 * cross
    evidence = patch_evidence(signatures, bank, mean_to_others(bank, 1.0).mean(), 1.0)
    assert evidence.mean().item() == pytest.approx(expected.item(), abs=1e-12)


def test_weights_of_a_bank_are_the_times_that_its_signatures_count():
    rng = np.random.default_rng(2)
    signatures, bank = torch.from_numpy(rng.normal(0, 1, (9, 3))), torch.from_numpy(rng.normal(0, 1, (6, 3)))
    times = torch.tensor([1, 3, 1, 2, 1, 1])
    repeated = kernel_mean(signatures, bank.repeat_interleave(times, 0), 0.7)
    torch.testing.assert_close(kernel_mean(signatures, bank, 0.7, times / times.sum().double()), repeated)


def test_gradients_are_those_of_the_double_loop():
    rng = np.random.default_rng(3)
    signatures, bank, width = rng.normal(0.4, 1, (4, 2)), rng.normal(0, 1, (6, 2)), 0.8
    s, b, w = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (signatures, bank, width))
    patch_evidence(s, b, mean_to_others(b, w).mean(), w).mean().backward()

    step = 1e-6
    for index in np.ndindex(signatures.shape):
        up, down = signatures.copy(), signatures.copy()
        up[index] += step
        down[index] -= step
        slope = (loop_mmd2(up, bank, width) - loop_mmd2(down, bank, width)) / (2 * step)
        assert s.grad[index].item() == pytest.approx(slope, abs=1e-8)
    slope = (loop_mmd2(signatures, bank, width + step) - loop_mmd2(signatures, bank, width - step)) / (2 * step)
    assert w.grad.item() == pytest.approx(slope, abs=1e-8)


def test_converges_to_the_closed_form_of_two_gaussians(monkeypatch):
    monkeypatch.setattr(mmd, "_BLOCK", 512)  # of four, it takes long
    # For P = N(mu, s^2 I), Q = N(0, I) in m dimensions and the Gaussian kernel of width l:
    # E k(x, y) = (l^2 / (l^2 + a^2 + b^2))^(m/2) exp(-|mu_x - mu_y|^2 / (2 (l^2 + a^2 + b^2))).
    m, sigma, width, mu = 3, 1.3, 1.5, np.array([0.7, -0.4, 0.2])

    def expected_kernel(variance, distance2):
        total = width**2 + variance
        return (width**2 / total) ** (m / 2) * math.exp(-distance2 / (2 * total))

    closed = expected_kernel(2 * sigma**2, 0) + expected_kernel(2, 0) - 2 * expected_kernel(sigma**2 + 1, mu @ mu)
    rng = np.random.default_rng(0)
    signatures = torch.from_numpy(rng.normal(mu, sigma, (4000, m)))
    bank = Bank.build(torch.from_numpy(rng.normal(0, 1, (6000, m))), width)
    estimate = patch_evidence(signatures, bank.signatures.double(), bank.term.double(), width).mean().item()
    assert estimate == pytest.approx(closed, abs=0.006)


class Largest(TorchFunctionMode):
    """Of all tensors that are made, how many numbers the largest has."""

    numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def test_memory_does_not_grow_with_the_pairs(block):
    signatures, bank = torch.randn(2, 30 * block // 4, 1), torch.randn(2, 41 * block // 4, 1)
    with Largest() as largest:
        patch_evidence(signatures, bank, 0.5, 1.0)
        Bank.build(bank, 1.0)
    # The sets themselves have more numbers than a block of four has kernels.
    assert largest.numbers == max(2 * block**2, bank.numel())


def test_unbiased_on_equal_distributions_and_may_be_negative():
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(400):
        s, b = torch.randn(8, 2, generator=generator), torch.randn(12, 2, generator=generator)
        values.append(patch_evidence(s, b, mean_to_others(b, 1.0).mean(), 1.0).mean().item())
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def test_identical_signatures_far_from_zero_stay_finite_and_bounded():
    # |a|^2 + |b|^2 - 2ab cancels badly here: the kernel must still not exceed 1.
    far = torch.full((6, 4), 1e4)
    assert gaussian_kernel(far, far, 1.0).max() <= 1
    evidence = patch_evidence(far, far, 1.0, 1.0)
    assert torch.isfinite(evidence).all()


def test_one_signature_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mean_to_others(torch.zeros(1, 3), 1.0)
