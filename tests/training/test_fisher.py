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


@pytest.fixture
def alike_and_not():
    """Means (2200, 8) of photographs and of five generators. Three are alike: they differ from photographs in number 0,
    and less in one of their own. Two, birds and portraits, differ in numbers of their own alone, and by more."""
    rng = np.random.default_rng(1)
    sources = np.repeat(["web", "a", "b", "c", "birds", "portraits"], [1200, 200, 200, 200, 200, 200])
    means = rng.normal(0, 1, (2200, 8))
    for number, generator in enumerate("abc", 1):
        means[sources == generator, 0] += 1.5
        means[sources == generator, number] += 1
    means[sources == "birds", 5] += 6
    means[sources == "portraits", 6] += 6
    return means, sources, sources != "web"


@pytest.mark.parametrize("in_common", [0.0, 0.4, 1.0])
def test_generators_count_by_their_agreement_with_the_others(alike_and_not, in_common):
    means, sources, generated = alike_and_not
    spread = means.std(0)
    scaled = means / spread
    share = {kind: np.mean(sources == kind) for kind in np.unique(sources)}
    within = sum(share[kind] * np.cov(scaled[sources == kind].T, bias=True) for kind in share) + np.eye(8)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors @ np.diag(values**-0.5) @ vectors.T  # so that a direction is an ordinary vector
    offsets = [
        whiten @ (scaled[sources == g].mean(0) - scaled[~generated].mean(0)) for g in np.unique(sources[generated])
    ]
    units = [offset / np.linalg.norm(offset) for offset in offsets]
    shared, alike = np.zeros(8), np.zeros(8)
    for i, unit in enumerate(units):
        agreement = np.mean([unit @ other for j, other in enumerate(units) if j != i])
        shared += max(agreement, 0) ** 2 * unit
        alike += offsets[i]
    direction = in_common * shared / np.linalg.norm(shared) + (1 - in_common) * alike / np.linalg.norm(alike)
    expected = whiten @ direction / spread
    np.testing.assert_allclose(
        discriminant(*alike_and_not, in_common=in_common) / np.linalg.norm(expected),
        expected / np.linalg.norm(expected),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_generator_of_tomorrow_is_told_by_what_those_of_today_share(alike_and_not):
    """One that differs in number 0 and, as each of the others, in one of its own."""
    rng = np.random.default_rng(2)
    real, new = rng.normal(0, 1, (2, 4000, 8))
    new[:, 0] += 1.5
    new[:, 4] += 1
    told = []
    for in_common in (0.0, 0.5, 1.0):
        direction = discriminant(*alike_and_not, in_common=in_common)
        told.append(((new @ direction)[:, None] > (real @ direction)[None, :500]).mean())
    assert told[0] < told[1] < told[2] and told[2] - told[0] > 0.05, told


@pytest.mark.parametrize("generators", [["a"], ["a", "portraits"]])
def test_where_no_generator_is_like_another_all_count_alike(generators):
    means = np.zeros((60, 3))
    means[:40] = np.random.default_rng(3).normal(0, 1, (40, 3))
    sources = np.array(["web"] * 40 + [generators[i % len(generators)] for i in range(20)])
    means[40:] = means[:20]  # the same scatter
    means[sources == "a", 0] += 3
    means[sources == "portraits", 0] -= 3
    generated = sources != "web"
    alike, shared = (discriminant(means, sources, generated, in_common=share) for share in (0.0, 1.0))
    assert np.isfinite(shared).all()
    np.testing.assert_array_equal(alike, shared)


def test_real_patches_lie_around_zero_with_a_deviation_of_one(labelled):
    means, sources, generated = labelled
    rng = np.random.default_rng(2)
    patches = rng.normal(5, 3, (4000, 4)).astype(np.float32)
    views = [(0, 4), (1, 3)]
    signature = fisher_signature(
        means, sources, generated, patches, views, between_sources=0.1, in_common=0.5, width=0.5
    ).eval()
    assert signature.width.flatten().tolist() == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        found = signature(torch.from_numpy(patches)).squeeze(-1).double()  # (2, 4000)
    for (start, stop), values in zip(views, found, strict=True):
        direction = discriminant(means[:, start:stop], sources, generated, 0.1, 0.5)
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
