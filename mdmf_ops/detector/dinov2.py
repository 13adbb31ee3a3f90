"""`dinov2-*`: the paper's extractor, a frozen DINOv2 ViT/14 read at its patch tokens.

Oquab et al. 2023, arXiv 2304.07193. Importing this module takes `transformers`, so only `make_backbone` does.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.images.tiles import TileGeometry

PATCH_PX = 14
DEFAULT_TILE_PX = 224

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SIZES = {
    # hidden_size, num_hidden_layers, num_attention_heads, use_swiglu_ffn
    "dinov2-small": (384, 12, 6, False),
    "dinov2-base": (768, 12, 12, False),
    "dinov2-large": (1024, 24, 16, False),
    "dinov2-giant": (1536, 40, 24, True),
}
"""The published models. `dinov2` alone is one of any other size."""

# The largest that is built, well over the giant's: a manifest's sizes are a stranger's until checked.
_BOUNDS = {
    "hidden_size": (8, 4096),
    "num_hidden_layers": (1, 80),
    "num_attention_heads": (1, 64),
    "mlp_ratio": (1, 8),
    "image_size": (2 * PATCH_PX, 74 * PATCH_PX),
    "tile_px": (2 * PATCH_PX, 74 * PATCH_PX),
    "layer_norm_eps": (1e-12, 1e-2),
    "layerscale_value": (0, 10),
}


@dataclass(frozen=True)
class Dinov2Options:
    """What a manifest says of a DINOv2, in the words of its checkpoint's `config.json`.

    Attributes:
        hidden_size: d, length of a token.
        image_size: side in px of the images that the position embeddings were learned on; others interpolate them.
        mlp_ratio: width of a block's MLP, in hidden sizes. With `use_swiglu_ffn` it is gated, and 2/3 as wide.
        layerscale_value: what LayerScale was initialised with; the weights hold what it became.
        tile_px: longest side of a tile, ours.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    mlp_ratio: int = 4
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True
    patch_size: int = PATCH_PX
    tile_px: int = DEFAULT_TILE_PX

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type:  # exactly: True would pass for an int
                raise ValueError(f"{field.name}: expected {field.type.__name__}, found {value!r}")
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}: expected {low} to {high}, found {getattr(self, name)!r}")
        if self.patch_size != PATCH_PX:
            raise ValueError(f"patch_size: expected {PATCH_PX}, found {self.patch_size!r}")
        for name in ("image_size", "tile_px"):
            if getattr(self, name) % PATCH_PX:
                raise ValueError(f"{name}: expected a multiple of {PATCH_PX}, found {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size: {self.hidden_size} is no multiple of {self.num_attention_heads} heads")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Dinov2Options":
        """Options of a manifest. Raises ValueError for one that is missing, unknown or out of bounds; names it."""
        fields = dataclasses.fields(cls)
        if unknown := sorted(values.keys() - {field.name for field in fields}):
            raise ValueError(f"{', '.join(unknown)}: no option of a DINOv2")
        if missing := [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]:
            raise ValueError(f"{', '.join(missing)}: missing")
        return cls(**values)

    @classmethod
    def from_checkpoint(cls, config: Any, tile_px: int = DEFAULT_TILE_PX) -> "Dinov2Options":
        """Options from what a checkpoint's `config.json` holds.

        Raises:
            ValueError: it is no DINOv2 of the kind that is read here; names what was expected and found.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"expected a JSON object, found {type(config).__name__}")
        if config.get("model_type") == "dinov2_with_registers" or config.get("num_register_tokens"):
            raise ValueError("a DINOv2 with register tokens: only those without are read")
        for name, expected in (("model_type", "dinov2"), ("num_channels", 3), ("hidden_act", "gelu")):
            if config.get(name) != expected:
                raise ValueError(f"{name}: expected {expected!r}, found {config.get(name)!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        return cls.from_dict({name: config[name] for name in known & config.keys()} | {"tile_px": tile_px})

    @property
    def name(self) -> str:
        """The published model that has these sizes, or `dinov2`."""
        sizes = (self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.use_swiglu_ffn)
        return next((name for name, published in SIZES.items() if published == sizes), "dinov2")

    def config(self) -> Dinov2Config:
        """The same in `transformers`' terms, without dropout."""
        values = dataclasses.asdict(self)
        del values["tile_px"]
        return Dinov2Config(**values)


class Dinov2Backbone(Backbone):
    """Patch tokens of a DINOv2 after its last layer norm: no CLS token, no registers.

    A token stands for 14 x 14 px at native resolution: an image is cut, never resized. Tokens of one tile attend to
    each other, tiles do not see one another.

    Made without weights: load some with `load_state_dict(..., assign=True)`.

    Args:
        name: `dinov2-small`, `-base`, `-large`, `-giant`, or `dinov2` for another size.
        options: of a manifest, the fields of `Dinov2Options`.

    Raises:
        ValueError: options out of bounds, unknown, or not those of a model of this name.
    """

    def __init__(self, name: str, options: Mapping[str, Any]):
        super().__init__()
        self.options = Dinov2Options.from_dict(options)
        if self.options.name != name:
            raise ValueError(f"expected the sizes of {name}, found those of {self.options.name}")
        self.embedding_dim = self.options.hidden_size
        self.geometry = TileGeometry(PATCH_PX, self.options.tile_px)
        # No memory, and no random numbers, for what is about to be loaded: giant has 4.5 GB of it.
        with torch.device("meta"):
            self.model = Dinov2Model(self.options.config())
        self.eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def normalise(self, tiles: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, 3, H, W) float32, as DINOv2 was trained: ImageNet's mean 0 and deviation 1."""
        return (tiles.float() / 255 - self.mean) / self.std

    def forward(self, tiles: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 -> (T, H/14, W/14, d) float32."""
        tokens = self.model(pixel_values=self.normalise(tiles)).last_hidden_state  # (T, 1 + H/14 * W/14, d)
        grid = [side // PATCH_PX for side in tiles.shape[2:]]
        return tokens[:, 1:].unflatten(1, grid)  # the first is CLS
