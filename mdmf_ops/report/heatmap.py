"""A row's patch evidence as pictures: where in the image the score comes from.

The evidence of a row is drawn at the true places of its patches. Colour runs from nothing at 0 or below to full at a
value that the caller chooses: one for all images of a page, so that two maps can be compared.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_MAP_COLUMNS = ("width_px", "height_px", "grid_rows", "grid_cols", "patch_px", "tiles", "patch_evidence")
"""What of a row is needed to draw its map."""

# The ramp is Matplotlib's inferno (CC0), from its black to its pale yellow: it rises in lightness alone, so that
# it reads in print and with any colour vision.
_RAMP = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39)], float
)
_MAX_OPACITY = 0.82
_GROUND = (27, 30, 36)
"""Of a map without its image."""


@dataclass(frozen=True)
class Patch:
    """One patch in the upright image, and its evidence."""

    left_px: int
    top_px: int
    side_px: int
    evidence: float


@dataclass(frozen=True)
class Tile:
    """One tile in the upright image.

    Attributes:
        evidence: (rows, cols) float32, one for each patch.
    """

    left_px: int
    top_px: int
    patch_px: int
    evidence: np.ndarray

    @property
    def width_px(self) -> int:
        """Width of all its patches."""
        return self.evidence.shape[1] * self.patch_px

    @property
    def height_px(self) -> int:
        """Height of all its patches."""
        return self.evidence.shape[0] * self.patch_px

    def box(self, scale: float) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of the image at a scale, a pixel or more each way."""
        right_px, bottom_px = self.left_px + self.width_px, self.top_px + self.height_px
        left, top, right, bottom = (round(px * scale) for px in (self.left_px, self.top_px, right_px, bottom_px))
        return left, top, max(right, left + 1), max(bottom, top + 1)


def tiles_of(row: Mapping[str, Any]) -> list[Tile]:
    """The tiles of a scored row.

    Raises:
        ValueError: the row has no map, or one whose parts do not fit each other.
    """
    if any(row.get(column) is None for column in _MAP_COLUMNS):
        raise ValueError(f"{row.get('image_uri')}: no map: the row is not of a scored image")
    rows, cols, patch_px = row["grid_rows"], row["grid_cols"], row["patch_px"]
    evidence = np.asarray(row["patch_evidence"], np.float32)
    places = [(tile["left_px"], tile["top_px"]) for tile in row["tiles"]]
    fits = min(rows, cols, patch_px, len(places)) > 0 and evidence.size == len(places) * rows * cols
    fits = fits and np.isfinite(evidence).all()
    within = all(
        0 <= left <= row["width_px"] - cols * patch_px and 0 <= top <= row["height_px"] - rows * patch_px
        for left, top in places
    )
    if not fits or not within:
        raise ValueError(f"{row.get('image_uri')}: the map does not fit the image: the row is damaged")
    grids = evidence.reshape(-1, rows, cols)
    return [Tile(left, top, patch_px, grid) for (left, top), grid in zip(places, grids, strict=True)]


def covered(row: Mapping[str, Any], tiles: Sequence[Tile]) -> float:
    """Share of the image that its tiles cover, 0 to 1: of a large image a part, and the rest was not looked at."""
    return sum(tile.width_px * tile.height_px for tile in tiles) / (row["width_px"] * row["height_px"])


def strongest_patches(tiles: Sequence[Tile], count: int) -> list[Patch]:
    """The patches with most evidence, strongest first."""
    patches = [
        Patch(tile.left_px + col * tile.patch_px, tile.top_px + row * tile.patch_px, tile.patch_px, float(value))
        for tile in tiles
        for (row, col), value in np.ndenumerate(tile.evidence)
    ]
    return sorted(patches, key=lambda patch: (-patch.evidence, patch.top_px, patch.left_px))[:count]


def full_scale(evidence: np.ndarray) -> float:
    """The evidence that gets the full colour where nothing better is known: all but the top hundredth lie below."""
    return max(float(np.quantile(evidence, 0.99)), 1e-6) if evidence.size else 1.0


def colour(evidence: np.ndarray, full: float) -> np.ndarray:
    """Evidence as colour.

    Args:
        evidence: (...) float.
        full: evidence of the full colour, above 0; nothing is drawn at 0 and below.

    Returns:
        (..., 4) uint8, RGBA.
    """
    share = np.clip(np.nan_to_num(evidence) / full, 0, 1)
    place = share * (len(_RAMP) - 1)
    rgb = np.stack([np.interp(place, np.arange(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)
    opacity = 255 * _MAX_OPACITY * share**0.7
    return np.concatenate([rgb, opacity[..., None]], axis=-1).round().astype(np.uint8)


def tile_png(tile: Tile, full: float) -> str:
    """A tile's map as a `data:` URI of a PNG with one pixel a patch, to be shown enlarged and not smoothed."""
    buffer = io.BytesIO()
    Image.fromarray(colour(tile.evidence, full), "RGBA").save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as a URI that carries them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def overlay(row: Mapping[str, Any], full: float, image: Image.Image | None, scale: float) -> Image.Image:
    """The map over the image, which is greyed and darkened so that the colours are the map's alone.

    Args:
        row: scored, with the columns of its map.
        full: as for `colour`.
        image: RGB, upright, of the row's size; None draws the map on a plain ground.
        scale: of the picture to the image.

    Returns:
        RGB.
    """
    shown = max(round(row["width_px"] * scale), 1), max(round(row["height_px"] * scale), 1)
    if image is None:
        ground = Image.new("RGB", shown, _GROUND)
    else:
        grey = ImageOps.grayscale(image.resize(shown, Image.Resampling.LANCZOS))
        ground = grey.point(lambda value: round(value * 0.75)).convert("RGB")
    for tile in tiles_of(row):
        left, top, right, bottom = tile.box(scale)
        heat = Image.fromarray(colour(tile.evidence, full), "RGBA")
        heat = heat.resize((right - left, bottom - top), Image.Resampling.NEAREST)
        ground.paste(heat, (left, top), heat)
    return ground
