"""bfloat16 where scores stay within the stated tolerance of float32, and float32 where they do not."""

import numpy as np
import pytest
import torch
from conftest import ROOT, photo
from PIL import Image

from mdmf_ops.defaults import PRECISIONS
from mdmf_ops.detector import Calibration, Detector, decode
from mdmf_ops.detector.backbones import make_backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.precision import TOLERANCE, keeps_scores, probes, spread
from mdmf_ops.detector.signature import Signature
from mdmf_ops.images.tiles import TileGeometry, cut_tiles, plan_tiles

SAMPLES = sorted((ROOT / "samples").glob("*/*.jpg"))

OPTIONS = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 70, "tile_px": 70}


def tiles_of(image, geometry):
    return cut_tiles(image, plan_tiles(image.height, image.width, geometry))


def score(detector, tiles, precision):
    """In float64, whatever precision the detector took."""
    return detector._evidence(tiles, precision).mean(dtype=np.float64)


def random_dinov2(scale, precision):
    """A detector of a small DINOv2 with random weights, its bank and its calibration from pictures of their own."""
    pytest.importorskip("transformers", reason="the dinov2 extra is not installed: pip install -e '.[test]'")
    generator = torch.Generator().manual_seed(0)
    backbone = make_backbone("dinov2", OPTIONS)
    backbone.model.to_empty(device="cpu")
    for name, parameter in backbone.model.named_parameters():
        neutral = "lambda" in name or ("norm" in name and "weight" in name)
        parameter.data = (
            torch.ones(parameter.shape) if neutral else scale * torch.randn(parameter.shape, generator=generator)
        )
    torch.manual_seed(0)
    signature = Signature(48, 16, 8)
    pictures = [tiles_of(Image.fromarray(photo(i, 140, 140)), backbone.geometry) for i in range(40)]
    with torch.inference_mode():
        tokens = torch.cat([backbone.embed(tiles) for tiles in pictures])
        signature.mean.copy_(tokens.mean(0))
        signature.scale.copy_(tokens.std(0))
        bank = Bank.build(signature(tokens)[:, ::4], signature.width)
    plain = Detector(backbone, signature, bank, Calibration.of("any", np.arange(200.0)))
    scores = np.array([score(plain, tiles, "float32") for tiles in pictures])
    return Detector(backbone, signature, bank, Calibration.of("own", np.tile(scores, 3)), precision=precision)


@pytest.fixture(scope="module")
def micro():
    return Detector.load(device="cpu", precision="bfloat16")


def moves(detector, paths):
    """By how much of its tolerance the score of each image moves."""
    for path in paths:
        tiles = tiles_of(decode(path.read_bytes()).image, detector.terms.geometry)
        moved = score(detector, tiles, "bfloat16") - score(detector, tiles, "float32")
        yield abs(moved) / (TOLERANCE * spread(detector.terms))


def test_micro_leaves_the_tolerance_and_stays_in_float32(micro):
    assert micro.terms.precision == "float32"
    content = SAMPLES[0].read_bytes()
    [asked], [exact] = micro.score([content]), Detector.load(device="cpu").score([content])
    assert asked.evidence.tobytes() == exact.evidence.tobytes()


def test_a_small_random_dinov2_keeps_its_scores_and_is_run_in_bfloat16():
    detector = random_dinov2(0.02, "bfloat16")
    assert detector.terms.precision == "bfloat16"
    assert max(moves(detector, SAMPLES)) < 1
    tiles = tiles_of(decode(SAMPLES[0].read_bytes()).image, detector.terms.geometry)
    fast, exact = detector.evidence(tiles), random_dinov2(0.02, "float32").evidence(tiles)
    assert fast.dtype == exact.dtype == np.float32
    assert (fast != exact).any()  # it did compute otherwise


def test_one_of_wild_weights_does_not():
    detector = random_dinov2(0.3, "bfloat16")
    assert detector.terms.precision == "float32"


def test_float32_is_what_is_taken_unless_another_is_asked_for():
    assert (
        random_dinov2(0.02, PRECISIONS[0]).terms.precision == Detector.load(device="cpu").terms.precision == "float32"
    )


@pytest.mark.parametrize(
    ("moved", "kept"), [(0.0, True), (0.005, True), (0.02, False), (np.nan, False), (np.inf, False)]
)
def test_one_probe_that_moves_too_far_or_is_not_finite_is_enough(micro, moved, kept):
    seen = []

    def evidence(tiles, precision):
        seen.append(precision)
        shift = moved * spread(micro.terms) if seen.count("bfloat16") == 2 and precision == "bfloat16" else 0
        return np.full(4, 0.1 + shift)

    assert keeps_scores(evidence, "bfloat16", micro.terms) is kept
    tried = len(list(probes(micro.terms.geometry))) if kept else 2
    assert seen.count("bfloat16") == seen.count("float32") == tried


def test_probes_are_tiles_of_the_detector_and_the_same_every_time():
    geometry = TileGeometry(14, 56)
    first, second = (list(probes(geometry)) for _ in range(2))
    assert {(p.shape, p.dtype.name) for p in first} == {((2, 3, 56, 56), "uint8")}
    assert [p.tobytes() for p in first] == [p.tobytes() for p in second]
    assert len({p.tobytes() for p in first}) == len(first)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="precision 'int8': expected one of float32, bfloat16"):
        Detector.load(device="cpu", precision="int8")
