"""DINOv2 against `transformers.Dinov2Model` and a float64 forward pass, on small random checkpoints."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import encode, photo
from torch.nn import functional as F

import model_assets
from mdmf_ops.defaults import BACKBONES
from mdmf_ops.detector import Calibration, Detector, decode
from mdmf_ops.detector.backbones import make_backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.detector import CALIBRATION_FILE
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.data import read_folders
from mdmf_ops.training.features import extract
from mdmf_ops.training.train import save_detector

pytest.importorskip("transformers", reason="the dinov2 extra is not installed: pip install -e '.[test]', Python 3.11+")

from transformers import Dinov2Config, Dinov2Model

from mdmf_ops.detector.dinov2 import SIZES, Dinov2Options

OPTIONS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 70, "mlp_ratio": 2}
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def random_model(**changes) -> Dinov2Model:
    """A reference model of random weights, so large that tokens, positions and blocks all matter."""
    model = Dinov2Model(Dinov2Config(**(OPTIONS | changes))).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def backbone_of(model: Dinov2Model, **changes):
    backbone = make_backbone("dinov2", OPTIONS | changes)
    backbone.model.load_state_dict(model.state_dict(), assign=True)
    return backbone


def random_tiles(count: int, height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, height_px, width_px), dtype=np.uint8)


def normalised(tiles: np.ndarray) -> np.ndarray:
    """ImageNet's preprocessing by its definition, in float64."""
    return (tiles / 255.0 - MEAN[:, None, None]) / STD[:, None, None]


def by_hand(state: dict, tiles: np.ndarray) -> np.ndarray:
    """All patch tokens, (T, rows, cols, d): the vision transformer written out in float64, token by token."""
    w = {name: tensor.double() for name, tensor in state.items()}
    d, heads = OPTIONS["hidden_size"], OPTIONS["num_attention_heads"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    rows, cols = tiles.shape[2] // 14, tiles.shape[3] // 14
    positions = w["embeddings.position_embeddings"][0]
    side = int((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, d, side, side)
    if (rows, cols) != (side, side):
        grid = F.interpolate(grid, size=(rows, cols), mode="bicubic", align_corners=False)
    kernel = w["embeddings.patch_embeddings.projection.weight"].reshape(d, -1)
    images = []
    for pixels in torch.from_numpy(normalised(tiles)):
        tokens = [w["embeddings.cls_token"][0, 0] + positions[0]]
        for r in range(rows):
            for c in range(cols):
                patch = pixels[:, 14 * r : 14 * (r + 1), 14 * c : 14 * (c + 1)].reshape(-1)
                embedded = kernel @ patch + w["embeddings.patch_embeddings.projection.bias"]
                tokens.append(embedded + grid[0, :, r, c])
        x = torch.stack(tokens)
        for i in range(OPTIONS["num_hidden_layers"]):
            block = f"encoder.layer.{i}"
            y = norm(x, f"{block}.norm1")
            q, k, v = (
                linear(y, f"{block}.attention.{part}_proj").unflatten(1, (heads, -1)).transpose(0, 1) for part in "qkv"
            )
            attended = torch.softmax(q @ k.transpose(1, 2) / (d / heads) ** 0.5, -1) @ v
            y = linear(attended.transpose(0, 1).flatten(1), f"{block}.attention.o_proj")
            x = x + w[f"{block}.layer_scale1.lambda1"] * y
            y = norm(x, f"{block}.norm2")
            if f"{block}.mlp.gate_proj.weight" in w:
                gate = linear(y, f"{block}.mlp.gate_proj")
                y = gate * torch.sigmoid(gate) * linear(y, f"{block}.mlp.up_proj")
                y = linear(y, f"{block}.mlp.down_proj")
            else:
                y = linear(y, f"{block}.mlp.fc1")
                y = linear(y * (1 + torch.erf(y / 2**0.5)) / 2, f"{block}.mlp.fc2")
            x = x + w[f"{block}.layer_scale2.lambda1"] * y
        images.append(norm(x, "layernorm")[1:].unflatten(0, (rows, cols)))
    return torch.stack(images).numpy()


@pytest.mark.parametrize("swiglu", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("size", [(70, 70), (56, 98), (28, 28)], ids=str)
@torch.inference_mode()
def test_tokens_are_those_of_the_transformer_written_out(swiglu, size):
    model = random_model(use_swiglu_ffn=swiglu)
    tiles = random_tiles(2, *size)
    tokens = backbone_of(model, use_swiglu_ffn=swiglu)(torch.from_numpy(tiles))
    np.testing.assert_allclose(tokens.numpy(), by_hand(model.state_dict(), tiles), atol=2e-5)


@pytest.mark.parametrize("size", [(224, 224), (70, 70), (518, 518), (64 // 14 * 14, 224)], ids=str)
@torch.inference_mode()
def test_tokens_are_the_reference_models_patch_tokens_in_raster_order(size):
    model = random_model()
    tiles = random_tiles(2, *size)
    tokens = backbone_of(model)(torch.from_numpy(tiles))
    rows, cols = size[0] // 14, size[1] // 14
    assert tokens.shape == (2, rows, cols, 24)
    assert tokens.dtype == torch.float32
    reference = model(pixel_values=torch.from_numpy(normalised(tiles)).float()).last_hidden_state
    assert reference.shape[1] == 1 + rows * cols  # CLS, which is left out, and no registers
    for row, col in [(0, 0), (0, cols - 1), (rows - 1, 0), (rows // 2, 1), (rows - 1, cols - 1)]:
        torch.testing.assert_close(tokens[:, row, col], reference[:, 1 + row * cols + col], atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_token_is_of_its_own_14_px():
    model = random_model()
    for layer in model.encoder.layer:  # blocks that add nothing: each token sees its patch alone
        layer.layer_scale1.lambda1.zero_()
        layer.layer_scale2.lambda1.zero_()
    backbone = backbone_of(model)
    tiles = random_tiles(1, 56, 84)
    before = backbone(torch.from_numpy(tiles))
    tiles[0, 1, 2 * 14, 5 * 14 - 1] ^= 128  # the upper right pixel of row 2, column 4
    changed = (backbone(torch.from_numpy(tiles)) != before).any(-1)[0]
    assert changed.nonzero().tolist() == [[2, 4]]


@torch.inference_mode()
def test_a_tile_alone_is_as_in_any_batch_and_order():
    backbone = backbone_of(random_model())
    tiles = torch.from_numpy(random_tiles(5, 98, 70))
    together = backbone(tiles)
    torch.testing.assert_close(backbone(tiles.flip(0)).flip(0), together, atol=1e-5, rtol=0)
    for i in range(5):
        torch.testing.assert_close(backbone(tiles[i : i + 1])[0], together[i], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_pixels_are_normalised_as_imagenet_is():
    backbone = backbone_of(random_model())
    tiles = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    ours = backbone.normalise(torch.from_numpy(tiles))
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), normalised(tiles), atol=5e-7)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dinov2-small", 22_056_576),
        ("dinov2-base", 86_580_480),
        ("dinov2-large", 304_368_640),
        ("dinov2-giant", 1_136_480_768),
    ],
)
def test_published_sizes_are_built_without_memory(name, parameters):
    hidden_size, layers, heads, swiglu = SIZES[name]
    options = {"num_hidden_layers": layers, "num_attention_heads": heads, "image_size": 518, "use_swiglu_ffn": swiglu}
    backbone = make_backbone(name, options | {"hidden_size": hidden_size})
    assert backbone.embedding_dim == hidden_size
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert all(parameter.is_meta for parameter in backbone.parameters())
    assert set(SIZES) | {"micro", "dinov2"} == set(BACKBONES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 1 << 40}, "hidden_size: expected 8 to 4096"),
        ({"hidden_size": 25}, "no multiple of 3 heads"),
        ({"hidden_size": True}, "hidden_size: expected int"),
        ({"hidden_size": "24"}, "hidden_size: expected int"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected 1 to 80"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected 1 to 64"),
        ({"image_size": 71}, "image_size: expected a multiple of 14"),
        ({"image_size": 14 * 10**6}, "image_size: expected 28 to"),
        ({"tile_px": 225}, "tile_px: expected a multiple of 14"),
        ({"tile_px": 14}, "tile_px: expected 28 to"),
        ({"patch_size": 16}, "patch_size: expected 14"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: expected"),
        ({"use_swiglu_ffn": 1}, "use_swiglu_ffn: expected bool"),
        ({"self": 1}, "self: no option"),
        ({"attn_implementation": "x"}, "attn_implementation: no option"),
    ],
)
def test_options_of_a_stranger_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("dinov2", OPTIONS | change)


def test_a_name_promises_its_sizes():
    with pytest.raises(ValueError, match="expected the sizes of dinov2-large, found those of dinov2"):
        make_backbone("dinov2-large", OPTIONS)
    with pytest.raises(ValueError, match="expected a backbone of micro, dinov2"):
        make_backbone("dinov3", OPTIONS)
    with pytest.raises(ValueError, match="expected options by name"):
        make_backbone("dinov2", [])
    with pytest.raises(ValueError, match="image_size: missing"):
        make_backbone("dinov2", {name: value for name, value in OPTIONS.items() if name != "image_size"})


def test_micro_needs_no_transformers():
    code = (
        "import sys; from mdmf_ops.detector import Detector; import mdmf_ops.commands.scan, mdmf_ops.commands.assets;"
        "Detector.load(); print([m for m in ('transformers', 'huggingface_hub', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "mdmf_ops.detector.dinov2")
    with pytest.raises(ValueError, match=r"dinov2 needs transformers: pip install 'mdmf-ops\[dinov2\]'"):
        make_backbone("dinov2", OPTIONS)


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    """A whole detector of a tiny random DINOv2."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(2)
    backbone = backbone_of(random_model(), tile_px=98)
    signature = Signature(24, 8, 4)
    with torch.no_grad():
        tokens = backbone(torch.from_numpy(random_tiles(2, 98, 98))).flatten(0, 2)
        bank = Bank.build(signature(tokens), signature.width)
    description = {"name": "dinov2", "options": dataclasses.asdict(Dinov2Options(**OPTIONS, tile_px=98))}
    save_detector(folder, description, backbone, signature, bank, {})
    Calibration.of("some-n200", np.random.default_rng(0).normal(0, 0.1, 200)).save(folder / CALIBRATION_FILE)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [*manifest.pop("files"), CALIBRATION_FILE]
    del manifest["format"], manifest["detector_id"]
    model_assets.write_assets(folder, manifest.pop("name"), files, manifest)
    return folder


def test_score_is_the_mmd_of_the_reference_models_tokens(detector_folder):
    detector = Detector.load(detector_folder, device="cpu")
    content = encode(photo(7, 150, 210), "PNG")
    [score] = detector.score([content])
    plan = score.plan
    assert (plan.patch_px, plan.height_px, plan.width_px) == (14, 70, 70)
    assert score.evidence.shape == (len(plan.origins) * 25,) == (6 * 25,)

    pixels = decode(content).pixels.transpose(2, 0, 1)
    model = random_model()
    signatures = []
    with torch.no_grad():
        for top, left in plan.origins:
            tile = normalised(pixels[None, :, top : top + 70, left : left + 70])
            tokens = model(pixel_values=torch.from_numpy(tile).float()).last_hidden_state[0, 1:]
            signatures.append(detector.signature(tokens)[0].double().numpy())
    s, r = np.concatenate(signatures), detector.bank.signatures[0].double().numpy()

    def kernel(a, b):
        distance2 = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-distance2 / (2 * detector.signature.width.item() ** 2))

    k, n = len(s), len(r)
    mmd2 = (kernel(s, s).sum() - k) / (k * (k - 1)) + (kernel(r, r).sum() - n) / (n * (n - 1))
    assert score.mmd2 == pytest.approx(mmd2 - 2 * kernel(s, r).mean(), abs=2e-5)


def test_score_does_not_depend_on_the_batch(detector_folder):
    detector = Detector.load(detector_folder, device="cpu")
    contents = [encode(photo(i, 64 + 40 * i, 100), "PNG") for i in range(4)]
    alone = [detector.score([content])[0].mmd2 for content in contents]
    assert [score.mmd2 for score in detector.score(contents[::-1])][::-1] == alone
    assert len(set(alone)) == 4


def test_features_are_computed_anew_for_other_tiles(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(photo(9, 120, 120), "PNG"))
    images = read_folders([tmp_path], [])
    model = random_model()
    counts = [
        len(extract(images, backbone_of(model, tile_px=tile_px), "none", 1, 0, tmp_path / "work").patches(0))
        for tile_px in (56, 112)
    ]
    assert counts == [9 * 2 * 2, 8 * 8]


def test_a_row_tells_the_patches_of_its_backbone(detector_folder):
    from mdmf_ops.beam.read import Image, ImageRef
    from mdmf_ops.beam.run import Run
    from mdmf_ops.beam.score import make_row
    from mdmf_ops.schema import to_table

    detector = Detector.load(detector_folder, device="cpu")
    content = encode(photo(8, 96, 96))
    image = Image(ImageRef("a.jpg"), content)
    [row] = to_table([make_row(image, detector.score([content])[0], detector, Run.start("out", "run"))]).to_pylist()
    assert (row["backbone"], row["patch_px"], row["grid_rows"], row["grid_cols"]) == ("dinov2", 14, 6, 6)
    assert np.mean(row["patch_evidence"]) == pytest.approx(row["mmd2"], abs=1e-6)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (None, "backbone: not there, or no table"),
        ({"name": ["dinov2"]}, "expected a backbone of"),
        ({"name": "dinov2"}, "hidden_size, num_hidden_layers"),
        ({"name": "dinov2", "options": "x"}, "expected options by name"),
        ({"name": "micro", "options": {"a": 1}}, "micro has no options"),
        ({"name": "dinov2", "options": OPTIONS | {"mlp_ratio": 3}}, r"mlp\.fc1\.bias: expected shape"),
        ({"name": "dinov2", "options": OPTIONS | {"num_hidden_layers": 3}}, "tensors, found"),
    ],
)
def test_a_manifest_that_does_not_fit_its_weights_is_refused(detector_folder, tmp_path, backbone, message):
    for path in detector_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"backbone": backbone}
    files = list(manifest.pop("files"))
    del manifest["format"], manifest["detector_id"]
    model_assets.write_assets(tmp_path, manifest.pop("name"), files, manifest)
    with pytest.raises(model_assets.AssetError, match=message):
        Detector.load(tmp_path, device="cpu")
