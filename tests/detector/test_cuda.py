"""On a real GPU: the scores of the CPU, and precision. Skipped where there is none."""

import numpy as np
import pytest
import torch
from conftest import ROOT, encode, photo

from mdmf_ops.detector import Detector, Score
from mdmf_ops.detector.precision import TOLERANCE, spread

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="PyTorch sees no CUDA device: run it on a machine with a GPU (docs/gpu.md)"
)

SAMPLES = [path.read_bytes() for path in sorted((ROOT / "samples").glob("*/*.jpg"))]


@pytest.fixture(scope="module")
def on_gpu():
    return Detector.load(device="auto")


def test_auto_takes_the_gpu_and_names_it(on_gpu):
    assert on_gpu.device.type == "cuda"
    assert on_gpu.terms.device == f"cuda {torch.cuda.get_device_name()}"


def test_scores_are_those_of_the_cpu(on_gpu):
    for found, expected in zip(on_gpu.score(SAMPLES), Detector.load(device="cpu").score(SAMPLES), strict=True):
        assert isinstance(found, Score)
        assert found.mmd2 == pytest.approx(expected.mmd2, abs=1e-4)
        np.testing.assert_allclose(found.evidence, expected.evidence, atol=1e-3)


def test_the_same_image_has_the_same_bits_whatever_is_in_its_batch(on_gpu):
    alone = [on_gpu.score([content])[0].evidence.tobytes() for content in SAMPLES]
    assert [result.evidence.tobytes() for result in on_gpu.score(SAMPLES)] == alone
    assert [result.evidence.tobytes() for result in on_gpu.score(SAMPLES[::-1])] == alone[::-1]


def test_bfloat16_is_taken_only_within_the_tolerance(on_gpu):
    asked = Detector.load(device="cuda", precision="bfloat16")
    for found, exact in zip(asked.score(SAMPLES), on_gpu.score(SAMPLES), strict=True):
        assert abs(found.mmd2 - exact.mmd2) <= TOLERANCE * spread(on_gpu.terms)


def test_the_largest_image_is_scored(on_gpu):
    [result] = on_gpu.score([encode(np.tile(photo(1, 300, 400), (10, 10, 1)))])
    assert len(result.plan.origins) == on_gpu.terms.geometry.max_tiles
