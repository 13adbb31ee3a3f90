"""The discriminant against its closed form, and the signature's zero and unit."""

import numpy as np
import pytest
import torch

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.mmd import patch_evidence
from mdmf_ops.training.fisher import discriminant, fisher_signature, least_generated


@pytest.fixture
def labelled():
    """Means (300, 4) of two real sources, which differ in number 0, and of one generator, which differs in number 1."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (300, 4)) @ rng.normal(0, 1, (4, 4))
    sources = np.repeat(["web", "phone", "model"], 100)
    means[sources == "phone", 0] += 20
    means[sources == "model", 1] += 3
    return means, sources, sources == "model"


def test_it_is_fishers_discriminant_up_to_the_shrinkage(labelled):
    means, sources, generated = labelled
    spread = means.std(0)
    scaled = means / spread
    kinds = ("web", "phone", "model")
    within = sum(np.cov(scaled[sources == kind].T, bias=True) for kind in kinds) / 3
    real = scaled[~generated].mean(0)
    offsets = [scaled[sources == kind].mean(0) - real for kind in ("web", "phone")]
    between = sum(np.outer(offset, offset) / 2 for offset in offsets)
    expected = np.linalg.inv(within + 0.5 * between + np.eye(4)) @ (scaled[generated].mean(0) - real) / spread
    np.testing.assert_allclose(discriminant(*labelled, between_sources=0.5), expected, rtol=1e-4)


def test_what_differs_between_real_sources_counts_less_the_more_it_is_played_down(labelled):
    means, sources, _generated = labelled
    apart = [
        abs(np.subtract(*((means[sources == kind] @ w / (means @ w).std()).mean() for kind in ("web", "phone"))))
        for w in (discriminant(*labelled, between_sources=weight) for weight in (0.0, 1.0, 100.0))
    ]
    assert apart[0] > apart[1] > apart[2]


def test_real_patches_lie_around_zero_with_a_deviation_of_one(labelled):
    means, sources, generated = labelled
    rng = np.random.default_rng(2)
    patches = rng.normal(5, 3, (4000, 4)).astype(np.float32)
    views = [(0, 4), (1, 3)]
    signature = fisher_signature(means, sources, generated, patches, views, between_sources=0.1, width=0.5).eval()
    assert signature.width.flatten().tolist() == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        found = signature(torch.from_numpy(patches)).squeeze(-1).double()  # (2, 4000)
    for (start, stop), values in zip(views, found, strict=True):
        direction = discriminant(means[:, start:stop], sources, generated, 0.1)
        score = (
            patches[:, start:stop].astype(np.float64) - patches[:, start:stop].mean(0, dtype=np.float64)
        ) @ direction
        score = torch.from_numpy(score / score.std())
        torch.testing.assert_close(values, score, atol=1e-4, rtol=1e-4)


def test_the_bank_is_of_the_real_patches_farthest_from_generated_ones_in_each_view():
    signatures = torch.from_numpy(np.random.default_rng(3).permuted(np.tile(np.arange(50.0), (2, 1)), axis=1))[
        ..., None
    ]
    bank = least_generated(signatures, 5)
    assert bank.shape == (2, 5, 1)
    for view in bank:
        assert sorted(view.flatten().tolist()) == [0, 1, 2, 3, 4]


def test_distance_from_that_bank_grows_all_the_way_towards_generated_images():
    real = torch.from_numpy(np.random.default_rng(4).normal(0, 1, (1, 2000, 1))).float()
    bank = Bank.build(least_generated(real, 200), 2.0)
    images = torch.linspace(-1, 5, 25)[:, None, None].expand(-1, 9, 1)  # (25, 9, 1)
    scores = patch_evidence(images, bank.signatures[0], bank.term[0], 2.0).mean(-1)
    assert (scores.diff() > 0).all()
