"""Where the detector looks: native-resolution tiles, planned from an image's size alone.

Nothing is ever resized: resampling erases the traces that the detector reads.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

PATCH_PX = 32
"""Side of a patch. Tile sides are multiples of it, so that patches fill a tile and never overlap."""

MAX_TILE_PX = 512
MAX_TILES = 9
"""At most this many tiles an image, 2.4 megapixels of it: the cost of the largest image is bounded."""


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one image: all of one size, none outside it, in raster order.

    Attributes:
        height_px, width_px: size of every tile, multiples of `PATCH_PX`.
        origins: (top_px, left_px) of each tile.
    """

    height_px: int
    width_px: int
    origins: tuple[tuple[int, int], ...]

    @property
    def grid_rows(self) -> int:
        """Rows of patches in one tile."""
        return self.height_px // PATCH_PX

    @property
    def grid_cols(self) -> int:
        """Columns of patches in one tile."""
        return self.width_px // PATCH_PX


def plan_tiles(height_px: int, width_px: int) -> TilePlan:
    """Plans the tiles of an image.

    An image of up to 9 tiles is covered but for a margin of less than a patch a tile; a larger one is
    sampled by at most 9 tiles spread evenly from edge to edge.

    Args:
        height_px, width_px: size of the image, each at least 64 (`Limits.min_side_px`).

    Raises:
        ValueError: a side is shorter than two patches: MMD needs at least two of them each way.
    """
    if min(height_px, width_px) < 2 * PATCH_PX:
        raise ValueError(f"an image of {width_px} x {height_px} px is smaller than {2 * PATCH_PX} px")
    rows, cols = -(-height_px // MAX_TILE_PX), -(-width_px // MAX_TILE_PX)
    while rows * cols > MAX_TILES:
        # Thin out the axis with more tiles, so that what remains spreads over the whole image.
        rows, cols = (rows - 1, cols) if rows >= cols else (rows, cols - 1)
    tile_height_px, tops = _spread(height_px, rows)
    tile_width_px, lefts = _spread(width_px, cols)
    return TilePlan(tile_height_px, tile_width_px, tuple((top, left) for top in tops for left in lefts))


def _spread(side_px: int, count: int) -> tuple[int, list[int]]:
    """Tile side and first pixels of `count` tiles spread over one side of an image."""
    tile_px = min(MAX_TILE_PX, side_px // count // PATCH_PX * PATCH_PX)
    last = side_px - tile_px
    # Multiples of 8 keep every tile on the 8 px grid of JPEG blocks, where traces of coding sit.
    starts = [i * last // max(count - 1, 1) // 8 * 8 for i in range(count)]
    return tile_px, starts


def cut_tiles(image: Image.Image, plan: TilePlan) -> np.ndarray:
    """Cuts the planned tiles out of an upright RGB image.

    Returns:
        (T, 3, height_px, width_px) uint8, channels first as the backbones take them.
    """
    boxes = [(left, top, left + plan.width_px, top + plan.height_px) for top, left in plan.origins]
    tiles = np.stack([np.asarray(image.crop(box)) for box in boxes])
    return np.ascontiguousarray(tiles.transpose(0, 3, 1, 2))
