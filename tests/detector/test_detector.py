"""`Detector`: the same bits whatever the batch, the definition in float64, and an error in the place of its image."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import BROKEN, encode, photo
from formats import save
from PIL import Image

from mdmf_ops.detector import Calibration, Detector, ErrorCode, ImageError, Limits, Score, decode
from mdmf_ops.detector.calibration import Stratum
from mdmf_ops.detector.detector import BANK_FILE, SIGNATURE_FILE, pick_device
from mdmf_ops.images.tiles import cut_tiles, plan_tiles


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


@pytest.fixture(scope="module")
def batch():
    """64 images of several sizes and formats."""
    sizes = [(64, 64), (96, 64), (100, 130), (64, 160)]
    formats = ["JPEG", "PNG", "WEBP", "BMP"]
    return [encode(photo(i, *sizes[i % 4]), formats[i // 4 % 4]) for i in range(64)]


def outcome(result):
    """All that a result says, as bytes and plain values."""
    if isinstance(result, ImageError):
        return result.code, result.message
    return result.mmd2, result.p_value, result.verdict, result.evidence.tobytes(), result.plan


@pytest.fixture(scope="module")
def alone(detector, batch):
    return [outcome(detector.score([content])[0]) for content in batch]


@pytest.mark.parametrize("size", [7, 64])
def test_a_score_does_not_depend_on_the_size_of_the_batch(detector, batch, alone, size):
    results = [result for i in range(0, len(batch), size) for result in detector.score(batch[i : i + size])]
    assert [outcome(result) for result in results] == alone


def test_a_score_does_not_depend_on_the_order(detector, batch, alone):
    order = np.random.default_rng(0).permutation(len(batch))
    results = detector.score([batch[i] for i in order])
    assert [outcome(result) for result in results] == [alone[i] for i in order]


def test_the_same_detector_loaded_again_gives_the_same_bits(batch, alone):
    assert [outcome(result) for result in Detector.load(device="cpu").score(batch[:4])] == alone[:4]


def test_a_fork_of_a_process_that_loaded_a_detector_scores(batch, alone):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    detector = Detector.load(device="cpu")
    torch.zeros(1 << 20).add_(1)  # by two threads, which the fork will not have
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send([outcome(result) for result in detector.score(batch[:4])]))
    process.start()
    try:
        assert receiver.poll(30), "the child hangs"
        assert receiver.recv() == alone[:4]
        process.join(60)
        assert process.exitcode == 0
    finally:
        torch.set_num_threads(threads)
        process.kill()
        process.join()


def test_images_that_differ_score_differently(alone):
    assert len({mmd2 for mmd2, *_ in alone}) == len(alone)


def test_no_images_give_no_results(detector):
    assert detector.score([]) == []


@pytest.mark.parametrize("kind", [iter, tuple, lambda batch: (content for content in batch)])
def test_images_may_come_from_an_iterator(detector, batch, alone, kind):
    assert [outcome(result) for result in detector.score(kind(batch[:3]))] == alone[:3]


def words(content):
    return memoryview(np.frombuffer(content[: len(content) // 8 * 8], np.uint64))


@pytest.mark.parametrize("kind", [bytearray, memoryview, words])
def test_bytes_of_another_type_are_bytes_and_change_no_other_image(detector, batch, kind):
    found = detector.score([kind(batch[0]), batch[1]]) + detector.score(batch[2:4])
    expected = detector.score([kind(batch[0]).tobytes() if kind is words else batch[0], *batch[1:4]])
    assert list(map(outcome, found)) == list(map(outcome, expected))


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    "content", ["photo.jpg", Path("photo.jpg"), None, np.zeros((64, 64, 3), np.uint8), Image.new("L", (9, 9))]
)
def test_what_is_no_bytes_is_refused_at_once_and_said(batch, content, isolated):
    detector = Detector.load(device="cpu", isolated=isolated)
    with pytest.raises(TypeError, match=f"bytes of a file; found {type(content).__name__}"):
        detector.scores([batch[0], content])
    with pytest.raises(TypeError, match="found int"):
        detector.score(batch[0])


def test_the_mean_of_the_evidence_is_the_score(detector, batch):
    for result in detector.score(batch[:8]):
        assert result.evidence.dtype == np.float32
        assert result.mmd2 == pytest.approx(np.mean(result.evidence, dtype=np.float64), abs=1e-9)
        patches = len(result.plan.origins) * result.plan.grid_rows * result.plan.grid_cols
        assert result.evidence.shape == (patches,)
        stratum = detector.calibration.stratum(result.evidence.size)
        assert (result.calibration_id, result.p_value) == (stratum.calibration_id, stratum.p_value(result.mmd2))


def kernel(a, b, width):
    """Gaussian kernel of (K, m) and (N, m) in float64, a difference at a time: (K, N)."""
    squared = np.zeros((len(a), len(b)))
    for channel in range(a.shape[1]):
        squared += (a[:, channel, None] - b[None, :, channel]) ** 2
    return np.exp(-squared / (2 * width**2))


def mean_to_others(signatures, width):
    """Mean kernel of each signature to the others; a few rows at a time, since banks are large."""
    sums = [kernel(signatures[i : i + 256], signatures, width).sum(axis=1) for i in range(0, len(signatures), 256)]
    return (np.concatenate(sums) - 1) / (len(signatures) - 1)


class Float64Detector:
    """The definition in numpy, from the files of a detector and the embeddings of its backbone."""

    def __init__(self, detector):
        folder = detector.assets.folder
        self.backbone = detector.backbone
        self.weights = {k: v.astype(float) for k, v in safetensors.numpy.load_file(folder / SIGNATURE_FILE).items()}
        self.views = detector.assets.manifest["signature"]["views"]
        bank = {k: v.astype(float) for k, v in safetensors.numpy.load_file(folder / BANK_FILE).items()}
        self.banks = bank["signatures"]
        self.widths = np.exp(self.weights["log_width"])
        # A compressed bank has weights, and the term of the bank that it stands for.
        compressed = "weights" in bank
        self.bank_weights = bank.get("weights", np.full(self.banks.shape[:2], 1 / self.banks.shape[1]))
        whole = [mean_to_others(*of).mean() for of in zip(self.banks, self.widths, strict=True)]
        self.bank_terms = bank["term"][:, 0] if compressed else whole

    def evidence(self, image):
        tiles = cut_tiles(image, plan_tiles(image.height, image.width, self.backbone.geometry))
        with torch.inference_mode():
            embeddings = self.backbone.embed(tiles).numpy().astype(float)
        w = self.weights
        evidence = []
        for view, (start, stop) in enumerate(self.views):
            seen = ((embeddings - w["mean"]) / w["scale"])[:, start:stop]
            signatures = seen @ w[f"last.{view}.weight"].T + w[f"last.{view}.bias"]
            bank, width = self.banks[view], self.widths[view]
            to_bank = kernel(signatures, bank, width) @ self.bank_weights[view]
            evidence.append(mean_to_others(signatures, width) - 2 * to_bank + self.bank_terms[view])
        return np.mean(evidence, axis=0)


def test_evidence_is_the_definition_in_float64(detector):
    definition = Float64Detector(detector)
    for seed, size in ((1, (96, 128)), (2, (64, 64)), (3, (600, 200))):
        content = encode(photo(seed, *size), "PNG")
        [result] = detector.score([content])
        expected = definition.evidence(decode(content).image)
        np.testing.assert_allclose(result.evidence, expected, atol=1e-4)
        assert result.mmd2 == pytest.approx(expected.mean(), abs=2e-5)


def test_a_broken_image_is_an_error_in_its_place_and_changes_no_other(detector, batch, alone):
    mixed, expected = [], []
    for i, (content, broken) in enumerate(zip(batch, BROKEN.values(), strict=False)):
        mixed += [content, broken]
        expected.append(alone[i])
    results = detector.score(mixed)
    assert [outcome(result) for result in results[::2]] == expected
    assert all(isinstance(result, ImageError) for result in results[1::2])
    assert [result.code for result in results[1::2]][:4] == [
        ErrorCode.EMPTY,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.UNSUPPORTED_FORMAT,
        ErrorCode.TRUNCATED,
    ]


def test_a_score_that_is_not_finite_is_an_error(batch):
    detector = Detector.load(device="cpu")
    with torch.no_grad():
        detector.signature.log_width.fill_(torch.nan)
    [result] = detector.score(batch[:1])
    assert isinstance(result, ImageError)
    assert result.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (127, 127, 127), (255, 0, 0)])
@pytest.mark.parametrize("size", [(64, 64), (600, 700)])
def test_a_flat_image_has_a_finite_score(detector, colour, size):
    [result] = detector.score([encode(np.full((*size, 3), colour, np.uint8), "PNG")])
    assert isinstance(result, Score)
    assert np.isfinite(result.evidence).all()
    assert -2 < result.mmd2 < 2
    assert 0 < result.p_value <= 1


def test_the_largest_plan_keeps_to_the_cap(detector):
    content = encode(np.tile(photo(1, 300, 400), (10, 10, 1)))
    [result] = detector.score([content])
    geometry = detector.backbone.geometry
    side_px = geometry.max_tile_px
    assert len(result.plan.origins) == geometry.max_tiles
    assert (result.plan.height_px, result.plan.width_px) == (side_px, side_px)
    assert result.evidence.size == geometry.max_tiles * (side_px // geometry.patch_px) ** 2
    assert (result.width_px, result.height_px) == (4000, 3000)


def test_the_size_is_that_of_the_upright_image(detector):
    exif = Image.Exif()
    exif[0x0112] = 6
    [turned] = detector.score([save(photo(1, 96, 160), "png", exif=exif)])
    [upright] = detector.score([save(np.rot90(photo(1, 96, 160), -1), "png")])
    assert (turned.width_px, turned.height_px) == (96, 160)
    assert outcome(turned) == outcome(upright)


def test_the_same_pixels_in_another_format_score_the_same(detector):
    pixels = photo(3)
    results = detector.score([save(pixels, name) for name in ("png", "bmp", "tiff", "tiff lzw", "webp")])
    assert len({outcome(result)[0] for result in results}) == 1


def test_limits_are_those_of_the_detector():
    detector = Detector.load(device="cpu", limits=Limits(max_pixels=96 * 128 - 1))
    [result] = detector.score([encode(photo(1))])
    assert result.code is ErrorCode.TOO_MANY_PIXELS


# Loading.


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.0, 1.5, 1e-9, float("nan")])
def test_alpha_out_of_reach_is_refused_with_what_can_be_reached(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha}.*p-values of .* reach from"):
        Detector.load(alpha=alpha, device="cpu")


def test_the_stratum_that_cannot_tell_alpha_is_named(detector):
    fine, coarse = Stratum("small-n999", 0, np.arange(999.0)), Stratum("large-n99", 64, np.arange(99.0))
    with pytest.raises(ValueError, match=r"alpha=0\.005 .* p-values of large-n99 reach from 1/100 to 1"):
        Detector(detector.backbone, detector.signature, detector.bank, Calibration((fine, coarse)), alpha=0.005)


def test_the_smallest_alpha_that_can_be_reached_is_taken(detector):
    [stratum] = detector.calibration.strata
    smallest = stratum.smallest_p_value
    assert Detector.load(alpha=smallest, device="cpu").alpha == smallest


def test_cuda_is_an_error_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch sees no CUDA device here; use --device auto or cpu"):
        Detector.load(device="cuda")
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:0", "meta", ""])
def test_a_device_that_is_none_is_an_error_that_names_those_there_are(device):
    with pytest.raises(ValueError, match=f"device '{device}': expected one of auto, cpu, cuda$"):
        Detector.load(device=device)
