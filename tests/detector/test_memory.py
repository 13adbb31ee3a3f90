"""The stated memory of a tile against what tensors really live at once; and the batches that follow from it."""

import re
import weakref

import pytest
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdmf_ops.detector.backbone import MicroBackbone

GIB = 1 << 30
GPUS_GIB = {"16 GiB": 16, "24 GiB": 24, "80 GiB": 80}


class PeakBytes(TorchDispatchMode):
    """Adds up the storages of all tensors that are made, and takes them off as they go; computes nothing on `meta`."""

    def __init__(self):
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[key] = storage.nbytes()
                self.now_bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.now_bytes)
                weakref.finalize(storage, self._free, key)
        return out

    def _free(self, key):
        self.now_bytes -= self._sizes.pop(key)


def published(name, **changes):
    """A published DINOv2 without weights."""
    dinov2 = pytest.importorskip("mdmf_ops.detector.dinov2", reason="pip install -e '.[test]', Python 3.11 or later")
    hidden, layers, heads, swiglu = dinov2.SIZES[name]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": 518}
    return dinov2.Dinov2Backbone(name, sizes | {"use_swiglu_ffn": swiglu} | changes).to("meta")


def backbone_of(name):
    return MicroBackbone().to("meta").eval() if name == "micro" else published(name)


NAMES = ["micro", "dinov2-small", "dinov2-base", "dinov2-large", "dinov2-giant"]


@pytest.mark.parametrize("side_px", ["smallest", "default", "largest"])
@pytest.mark.parametrize("name", NAMES)
def test_stated_bytes_are_those_of_the_widest_place_and_no_more_than_half_above(name, side_px):
    backbone = backbone_of(name)
    patch_px, default_px = backbone.geometry.patch_px, backbone.geometry.max_tile_px
    side_px = {"smallest": 4 * patch_px, "default": default_px, "largest": 518 // patch_px * patch_px}[side_px]
    count = 64  # so many that what is not of a tile, interpolated positions, does not count
    tiles = torch.empty(count, 3, side_px, side_px, dtype=torch.uint8, device="meta")
    with torch.inference_mode(), PeakBytes() as peak:
        backbone(tiles)
    stated = count * backbone.activation_bytes(side_px, side_px)
    assert peak.peak_bytes <= stated <= 1.5 * peak.peak_bytes


def test_weights_are_counted_by_what_they_are():
    assert published("dinov2-large").weight_bytes() == pytest.approx(4 * 304e6, rel=0.01)


@pytest.mark.parametrize(
    ("memory_bytes", "expected"),
    [(0, 1), (1 << 20, 1), (100 << 20, 14), (1 << 30, 162)],
    ids=["none", "1 MiB", "100 MiB", "1 GiB"],
)
def test_tiles_fill_what_the_weights_leave(memory_bytes, expected):
    backbone = MicroBackbone()
    assert backbone.tiles_at_once(256, 256, memory_bytes) == expected


def test_on_an_accelerator_no_more_than_fits_is_tried(monkeypatch):
    backbone = MicroBackbone().eval()
    tried = []
    monkeypatch.setattr(MicroBackbone, "parameters", lambda _self: iter([torch.empty(0, device="meta")]))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: type("", (), {"total_memory": 64 << 20}))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    def embed(backbone, _tiles, at_once, _device):
        tried.append(at_once)
        return torch.zeros(2, backbone.PATCH_DIM)

    monkeypatch.setattr(MicroBackbone, "_seen", embed)
    for count in (1, 3, 16):
        backbone.embed(torch.zeros(count, 3, 256, 256, dtype=torch.uint8).numpy())
    assert tried == [1, 3, 10]


@pytest.mark.parametrize("name", NAMES)
def test_the_documented_table_is_the_arithmetic(name):
    text = (ROOT / "docs/gpu.md").read_text()
    [row] = re.findall(rf"^\| `{name}` \|(.+)\|$", text, re.MULTILINE)[:1]
    cells = [cell.strip().replace(",", "") for cell in row.split("|")]
    backbone = backbone_of(name)
    side_px = backbone.geometry.max_tile_px
    fits = [backbone.tiles_at_once(side_px, side_px, gib * GIB) for gib in GPUS_GIB.values()]
    weights_mb, tile_mb = backbone.weight_bytes() / 1e6, backbone.activation_bytes(side_px, side_px) / 1e6
    assert cells == [f"{side_px}", f"{weights_mb:.0f}", f"{tile_mb:.1f}", *map(str, fits)]
