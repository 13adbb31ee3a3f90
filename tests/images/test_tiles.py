"""Tiles: inside the image, on the patch grid, covering, capped, and cut at native resolution."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mdmf_ops.detector.micro import MicroBackbone
from mdmf_ops.images.tiles import TileGeometry, TilePlan, cut_tiles, plan_tiles

MICRO = MicroBackbone.geometry

sides = st.integers(64, 30_000)
# Of the backbones there are, and one whose patches and tiles fit nothing else.
geometries = st.sampled_from([MICRO, TileGeometry(14, 224), TileGeometry(14, 518), TileGeometry(9, 135, max_tiles=5)])


def test_micro_looks_through_patches_of_32_px_in_4_tiles_of_512_px():
    assert TileGeometry(patch_px=32, max_tile_px=512, max_tiles=4) == MICRO


@given(sides, sides, geometries)
@example(64, 30_000, MICRO)
@example(512, 512, MICRO)
@example(513, 1024, MICRO)
@example(95, 64, MICRO)
def test_tiles_lie_inside_on_the_grid_and_within_the_cap(height, width, geometry):
    plan = plan_tiles(height, width, geometry)
    assert plan.patch_px == geometry.patch_px
    assert 1 <= len(plan.origins) <= geometry.max_tiles
    assert len(set(plan.origins)) == len(plan.origins)
    for side, patches in ((plan.height_px, plan.grid_rows), (plan.width_px, plan.grid_cols)):
        assert side == patches * geometry.patch_px
        assert 2 * geometry.patch_px <= side <= geometry.max_tile_px
    for top, left in plan.origins:
        assert 0 <= top <= height - plan.height_px
        assert 0 <= left <= width - plan.width_px
        # JPEG's grid, wherever whole blocks fill a tile.
        assert top % 8 == 0 or plan.height_px % 8
        assert left % 8 == 0 or plan.width_px % 8


@given(st.floats(0, 1), st.floats(0, 1), geometries)
@example(1, 1, TileGeometry(14, 224))
def test_an_image_within_the_cap_is_covered_but_for_a_patch_a_tile(tall, wide, geometry):
    # As many tiles each way as the cap allows of a square.
    largest = int(geometry.max_tiles**0.5) * geometry.max_tile_px
    height, width = (64 + int(part * (largest - 64)) for part in (tall, wide))
    plan = plan_tiles(height, width, geometry)
    seen = np.zeros((height, width), np.int8)
    for top, left in plan.origins:
        seen[top : top + plan.height_px, left : left + plan.width_px] += 1
    rows, cols = -(-height // geometry.max_tile_px), -(-width // geometry.max_tile_px)
    assert (seen.max(axis=1) == 0).sum() <= rows * geometry.patch_px
    assert (seen.max(axis=0) == 0).sum() <= cols * geometry.patch_px
    assert seen.max() == 1, "tiles of a covered image do not overlap"


@given(sides, sides, geometries)
@example(3000, 4000, MICRO)
@example(1025, 1025, MICRO)
@example(400, 640, MICRO)
def test_each_tile_lies_in_the_middle_of_its_part(height, width, geometry):
    """A generated picture in a frame, or pasted into a margin of photographs, is not out of sight."""
    plan = plan_tiles(height, width, geometry)
    rows, cols = (len({origin[axis] for origin in plan.origins}) for axis in (0, 1))
    for i, (top, left) in enumerate(plan.origins):
        row, col = divmod(i, cols)
        for start, tile_px, side, part, parts in (
            (top, plan.height_px, height, row, rows),
            (left, plan.width_px, width, col, cols),
        ):
            off_px = (part + 0.5) * side / parts - (start + tile_px / 2)
            assert -1 <= off_px < 9, "in the middle, but for a JPEG block"


def test_a_photograph_of_twelve_megapixels_is_looked_at_in_the_middles_of_its_quarters():
    plan = plan_tiles(3000, 4000, MICRO)
    assert plan == TilePlan(32, 512, 512, ((488, 744), (488, 2744), (1992, 744), (1992, 2744)))


def test_tiles_that_jpeg_blocks_do_not_fill_touch_and_do_not_overlap():
    assert plan_tiles(420, 420, TileGeometry(14, 224)) == TilePlan(
        14, 210, 210, ((0, 0), (0, 210), (210, 0), (210, 210))
    )


def test_pixels_are_the_images_own():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    plan = plan_tiles(700, 1100, MICRO)
    tiles = cut_tiles(Image.fromarray(image), plan)
    assert tiles.shape == (len(plan.origins), 3, plan.height_px, plan.width_px)
    for tile, (top, left) in zip(tiles, plan.origins, strict=True):
        for channel in range(3):
            np.testing.assert_array_equal(
                tile[channel], image[top : top + plan.height_px, left : left + plan.width_px, channel]
            )


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="smaller than 64"):
        plan_tiles(63, 500, MICRO)
    with pytest.raises(ValueError, match="smaller than 28"):
        plan_tiles(500, 27, TileGeometry(14, 224))


@pytest.mark.parametrize("geometry", [(14, 230), (32, 32), (0, 64), (-14, 28), (32, 512, 0)])
def test_a_geometry_that_no_tile_has_is_refused(geometry):
    with pytest.raises(ValueError, match=r"tiles"):
        TileGeometry(*geometry)
