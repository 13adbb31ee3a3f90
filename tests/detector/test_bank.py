"""A compressed bank against the whole one, the definition in float64, and what scoring against a bank costs."""

import time

import numpy as np
import pytest
import torch
from conftest import FULL, encode, photo

import model_assets
from mdmf_ops.detector import Detector
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.detector import BANK_FILE, load_bank, load_model
from mdmf_ops.training.train import save_tensors

WIDTHS = (1.5, 2.5)
WIDTH = torch.tensor(WIDTHS)[:, None, None]


def clouds(count: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """(2, count, dim): signatures of two views, of uneven clouds."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 0.5, 0.2])[:dim]
    return torch.randn(2, count, dim, generator=generator) * scale + shift


def kernel(a, b, width):
    """(K, m) and (N, m) to (K, N): the definition, in float64."""
    squared = sum((a[:, None, i] - b[None, :, i]) ** 2 for i in range(a.shape[1]))
    return np.exp(-squared / (2 * width**2))


def evidence_by_definition(image, bank):
    """(K,): float64 and numpy throughout, of a bank that is not compressed."""
    views = []
    for s, r, width in zip(image.double().numpy(), bank.double().numpy(), WIDTHS, strict=True):
        within, own = kernel(s, s, width), kernel(r, r, width)
        to_others = (within.sum(1) - within.diagonal()) / (len(s) - 1)
        term = (own.sum() - len(r)) / (len(r) * (len(r) - 1))
        views.append(to_others - 2 * kernel(s, r, width).mean(1) + term)
    return np.mean(views, axis=0)


@pytest.fixture(scope="module", params=[1, 3], ids="signatures of {}".format)
def whole(request):
    return Bank.build(clouds(1500, request.param, 0), WIDTH)


# The error that is asked for decides how many prototypes there are: the bound must hold for each.
@pytest.mark.parametrize("largest_error", [0.1, 1e-2, 1e-3])
def test_no_patch_of_any_image_is_off_by_more_than_the_bound(whole, largest_error):
    dim = whole.signatures.shape[-1]
    found = whole.compressed(WIDTH, largest_error)
    assert found.compressed_from == 1500 and 0 < found.error_bound <= largest_error
    assert found.signatures.shape[1] <= 750
    images = {
        "like the bank": clouds(64, dim, 1),
        "beside the bank": clouds(64, dim, 2, 0.7),
        "away from the bank": clouds(64, dim, 3, 3.0),
        "far away": clouds(8, dim, 4, 1e3),
        "beyond all numbers": clouds(8, dim, 5, 1e18),
        "on top of the bank": whole.signatures[:, :200],
        "on top of the prototypes": found.signatures,
        "one patch again and again": clouds(1, dim, 6).expand(2, 50, dim),
        "everywhere": torch.linspace(-6, 6, 400)[None, :, None].expand(2, 400, dim),
    }
    for what, image in images.items():
        off = found.evidence(image, WIDTH).mean(0).numpy() - evidence_by_definition(image, whole.signatures)
        assert np.abs(off).max() <= found.error_bound + 1e-6, what


def test_the_bound_is_no_promise_that_costs_nothing(whole):
    # Eight prototypes of a bank of three numbers a signature are not enough, and the bound says so.
    found = whole.compressed(WIDTH, largest_error=1.0)
    spread = torch.linspace(-3, 3, 200)[None, :, None].expand(2, 200, whole.signatures.shape[-1])
    off = (found.evidence(spread, WIDTH) - whole.evidence(spread, WIDTH)).abs().max()
    assert found.signatures.shape[1] == 8
    assert off > found.error_bound / 100 or found.error_bound < 1e-5


def test_signatures_that_are_no_numbers_give_no_score(whole):
    found = whole.compressed(WIDTH)
    for value in (float("nan"), float("inf")):
        image = clouds(8, whole.signatures.shape[-1], 1)
        image[0, 3] = value
        assert not torch.isfinite(found.evidence(image, WIDTH)[0, 3])
        assert not torch.isfinite(found.evidence(image, WIDTH).mean())


def test_prototypes_are_signatures_of_the_bank(whole):
    for view, of_bank in zip(whole.compressed(WIDTH).signatures.tolist(), whole.signatures.tolist(), strict=True):
        assert set(map(tuple, view)) <= set(map(tuple, of_bank))


def test_compressing_twice_gives_the_same_numbers(whole):
    first, second = (whole.compressed(WIDTH) for _ in range(2))
    assert all(torch.equal(first.tensors()[name], tensor) for name, tensor in second.tensors().items())


def test_a_bank_that_few_signatures_do_not_stand_for_stays_whole():
    narrow = torch.full((2, 1, 1), 0.01)
    bank = Bank.build(clouds(300, 3, 0), narrow)
    assert bank.compressed(narrow) is bank
    few = Bank.build(clouds(15, 1, 0), WIDTH)
    assert few.compressed(WIDTH) is few


def test_a_bank_of_one_signature_again_and_again_is_one_prototype():
    bank = Bank.build(torch.ones(2, 40, 3), WIDTH)
    found = bank.compressed(WIDTH)
    assert found.weights.count_nonzero(dim=1).tolist() == [1, 1]
    assert found.weights.sum(1).tolist() == pytest.approx([1, 1])


def cost_s(bank, image) -> float:
    """CPU time of the fastest of several tries."""

    def once() -> float:
        started_s = time.thread_time()
        bank.evidence(image, WIDTH[:1])
        return time.thread_time() - started_s

    return min(once() for _ in range(25))


@pytest.mark.parametrize(
    "count", [8192, pytest.param(262_144, marks=pytest.mark.skipif(not FULL, reason="MDMF_FULL=1: takes minutes"))]
)
def test_what_scoring_costs_does_not_follow_the_size_of_the_bank(count):
    small, large = (Bank.build(clouds(n, 1, 0)[:1], WIDTH[:1]) for n in (1024, count))
    image = clouds(256, 1, 1)[:1]
    small, compressed = small.compressed(WIDTH[:1]), large.compressed(WIDTH[:1])
    assert compressed.compressed_from == count and compressed.error_bound <= 1e-3
    assert cost_s(compressed, image) < 2 * cost_s(small, image)
    assert cost_s(compressed, image) < cost_s(large, image) / 10


@pytest.fixture(scope="module")
def compressed_folder(tmp_path_factory):
    """The embedded detector with a compressed bank."""
    embedded = model_assets.read_assets(model_assets.embedded())
    folder = tmp_path_factory.mktemp("compressed")
    for name in embedded.manifest["files"]:
        (folder / name).write_bytes(embedded.path(name).read_bytes())
    bank = load_bank(embedded)
    if bank.weights is None:
        bank = bank.compressed(load_model(embedded)[1].width)
    save_tensors(folder / BANK_FILE, bank.tensors())
    rest = {key: embedded.manifest[key] for key in ("created", "backbone", "signature", "training", "calibration")}
    model_assets.write_assets(folder, "micro", list(embedded.manifest["files"]), rest | {"bank": bank.description()})
    return folder


def test_a_detector_with_a_compressed_bank_loads_and_scores_alike(compressed_folder):
    embedded, compressed = Detector.load(device="cpu"), Detector.load(compressed_folder, device="cpu")
    said = compressed.assets.manifest["bank"]
    assert said["compressed_from"] >= 2 * said["size"]
    assert (compressed.bank.compressed_from, compressed.bank.error_bound) == (
        said["compressed_from"],
        said["error_bound"],
    )
    contents = [encode(photo(seed, 64, 160)) for seed in range(3)]
    for before, after in zip(embedded.score(contents), compressed.score(contents), strict=True):
        assert np.abs(after.evidence - before.evidence).max() <= said["error_bound"] + 1e-6


def test_the_embedded_bank_is_compressed_within_a_hundredth_of_the_scores_deviation(compressed_folder):
    detector = Detector.load(compressed_folder, device="cpu")
    deviation = min(stratum.scores.std() for stratum in detector.calibration.strata)
    assert detector.bank.error_bound <= 0.01 * deviation


def test_a_bank_whose_weights_are_missing_is_refused(compressed_folder, tmp_path):
    for path in compressed_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assets = model_assets.read_assets(tmp_path)
    tensors = load_bank(assets).tensors()
    del tensors["weights"]
    save_tensors(tmp_path / BANK_FILE, tensors)
    rest = {key: assets.manifest[key] for key in ("backbone", "signature", "training", "bank")}
    model_assets.write_assets(tmp_path, "micro", list(assets.manifest["files"]), rest)
    with pytest.raises(model_assets.AssetError, match=r"bank\.safetensors: expected 3 tensors, found 2"):
        load_bank(model_assets.read_assets(tmp_path))
