"""Where the detector looks: native-resolution tiles, planned from an image's size alone.

Nothing is ever resized: resampling erases the traces that the detector reads.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mdmf_ops.images.decode import DecodedImage, Limits, decode

_JPEG_BLOCK_PX = 8


@dataclass(frozen=True)
class TileGeometry:
    """The tiles that a backbone takes.

    Attributes:
        patch_px: side of a patch. Tile sides are multiples of it, so that patches fill a tile and never overlap.
        max_tile_px: longest side of a tile, a multiple of `patch_px`.
        max_tiles: at most this many tiles an image: the cost of the largest image is bounded.
    """

    patch_px: int
    max_tile_px: int
    max_tiles: int = 9

    def __post_init__(self):
        if self.patch_px < 1 or self.max_tile_px % self.patch_px or self.max_tile_px < 2 * self.patch_px:
            raise ValueError(f"tiles of {self.max_tile_px} px: two or more whole patches of {self.patch_px} px a side")
        if self.max_tiles < 1:
            raise ValueError(f"{self.max_tiles} tiles an image: one or more")

    @property
    def max_bytes(self) -> int:
        """Of the tiles of one image, RGB of 8 bits."""
        return 3 * self.max_tiles * self.max_tile_px**2


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one image: all of one size, none outside it, in raster order.

    Attributes:
        patch_px: side of a patch.
        height_px, width_px: size of every tile, multiples of `patch_px`.
        origins: (top_px, left_px) of each tile.
    """

    patch_px: int
    height_px: int
    width_px: int
    origins: tuple[tuple[int, int], ...]

    @property
    def grid_rows(self) -> int:
        """Rows of patches in one tile."""
        return self.height_px // self.patch_px

    @property
    def grid_cols(self) -> int:
        """Columns of patches in one tile."""
        return self.width_px // self.patch_px


def plan_tiles(height_px: int, width_px: int, geometry: TileGeometry) -> TilePlan:
    """Plans the tiles of an image.

    An image of up to `max_tiles` is covered but for a margin of less than a patch a tile. Of a larger one that many
    equal parts are looked at, each in its middle: what is shown lies there and not in the corners, and a border around
    it, of whatever else, hides nothing.

    Args:
        height_px, width_px: size of the image, each at least 64 (`Limits.min_side_px`).
        geometry: of the backbone that takes the tiles.

    Raises:
        ValueError: a side is shorter than two patches: MMD needs at least two of them each way.
    """
    if min(height_px, width_px) < 2 * geometry.patch_px:
        raise ValueError(f"an image of {width_px} x {height_px} px is smaller than {2 * geometry.patch_px} px")
    rows, cols = -(-height_px // geometry.max_tile_px), -(-width_px // geometry.max_tile_px)
    while rows * cols > geometry.max_tiles:
        # Thin out the axis with more tiles, so that what remains spreads over the whole image.
        rows, cols = (rows - 1, cols) if rows >= cols else (rows, cols - 1)
    tile_height_px, tops = _spread(height_px, rows, geometry)
    tile_width_px, lefts = _spread(width_px, cols, geometry)
    origins = tuple((top, left) for top in tops for left in lefts)
    return TilePlan(geometry.patch_px, tile_height_px, tile_width_px, origins)


def _spread(side_px: int, count: int, geometry: TileGeometry) -> tuple[int, list[int]]:
    """Tile side and first pixels of the tiles in the middle of `count` equal parts of one side of an image."""
    tile_px = min(geometry.max_tile_px, side_px // count // geometry.patch_px * geometry.patch_px)
    # On the grid of JPEG blocks, where traces of coding sit; a tile that blocks do not fill keeps to the coarsest
    # grid on which tiles do not overlap.
    grid_px = math.gcd(tile_px, _JPEG_BLOCK_PX)
    middles = [(2 * i + 1) * side_px // (2 * count) for i in range(count)]
    return tile_px, [(middle - tile_px // 2) // grid_px * grid_px for middle in middles]


@dataclass(frozen=True)
class TiledImage:
    """All that is scored of an image.

    Attributes:
        tiles: (T, 3, plan.height_px, plan.width_px) uint8.
        plan: where the tiles lie, in px of the upright image.
        width_px, height_px: of the upright image.
        image_format, jpeg_quality: as `DecodedImage` has them.
        decode_us: how long it took from bytes to tiles, in microseconds, where that is known.
    """

    tiles: np.ndarray
    plan: TilePlan
    width_px: int
    height_px: int
    image_format: str
    jpeg_quality: int | None
    decode_us: int = 0


def decode_tiles(
    content: bytes, geometry: TileGeometry, limits: Limits, memory: memoryview | None = None
) -> TiledImage:
    """Bytes to tiles, timed; see `cut_tiles` for `memory`. Raises ImageError as `decode` does."""
    started_ns = time.perf_counter_ns()
    tiled = tile_image(decode(content, limits), geometry, memory)
    return replace(tiled, decode_us=(time.perf_counter_ns() - started_ns) // 1000)


def tile_image(image: DecodedImage, geometry: TileGeometry, memory: memoryview | None = None) -> TiledImage:
    """Plans and cuts the tiles of a decoded image."""
    width_px, height_px = image.size
    plan = plan_tiles(height_px, width_px, geometry)
    return TiledImage(cut_tiles(image, plan, memory), plan, width_px, height_px, image.format, image.jpeg_quality)


def cut_tiles(image: Image.Image | DecodedImage, plan: TilePlan, memory: memoryview | None = None) -> np.ndarray:
    """Cuts the planned tiles out of an image, upright and RGB.

    Args:
        memory: where to put them, at least `TileGeometry.max_bytes`; None is new memory.

    Returns:
        (T, 3, height_px, width_px) uint8, channels first as the backbones take them.
    """
    tiles = np.ndarray((len(plan.origins), 3, plan.height_px, plan.width_px), np.uint8, memory)
    for tile, (top, left) in zip(tiles, plan.origins, strict=True):
        crop = image.crop((left, top, left + plan.width_px, top + plan.height_px))
        tile[:] = np.asarray(crop).transpose(2, 0, 1)
    return tiles
