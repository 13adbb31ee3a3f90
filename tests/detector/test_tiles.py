"""Tiles: inside the image, on the patch grid, covering, capped, and cut at native resolution."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mdmf_ops.detector.tiles import MAX_TILE_PX, MAX_TILES, PATCH_PX, cut_tiles, plan_tiles

sides = st.integers(64, 30_000)


@given(sides, sides)
@example(64, 30_000)
@example(512, 512)
@example(513, 1024)
@example(95, 64)
def test_tiles_lie_inside_on_the_grid_and_within_the_cap(height, width):
    plan = plan_tiles(height, width)
    assert 1 <= len(plan.origins) <= MAX_TILES
    assert len(set(plan.origins)) == len(plan.origins)
    for side in (plan.height_px, plan.width_px):
        assert side % PATCH_PX == 0
        assert 64 <= side <= MAX_TILE_PX
    for top, left in plan.origins:
        assert top % 8 == left % 8 == 0
        assert 0 <= top <= height - plan.height_px
        assert 0 <= left <= width - plan.width_px


@given(st.integers(64, 1536), st.integers(64, 1536))
def test_an_image_within_the_cap_is_covered_but_for_a_patch_a_tile(height, width):
    plan = plan_tiles(height, width)
    seen = np.zeros((height, width), np.int8)
    for top, left in plan.origins:
        seen[top : top + plan.height_px, left : left + plan.width_px] += 1
    rows, cols = -(-height // MAX_TILE_PX), -(-width // MAX_TILE_PX)
    assert (seen.max(axis=1) == 0).sum() <= rows * PATCH_PX
    assert (seen.max(axis=0) == 0).sum() <= cols * PATCH_PX
    assert seen.max() == 1, "tiles of a covered image do not overlap"


@pytest.mark.parametrize("height", [3000, 8000])
def test_a_large_image_is_sampled_from_edge_to_edge(height):
    plan = plan_tiles(height, 4000)
    assert len(plan.origins) == MAX_TILES
    tops = {top for top, _ in plan.origins}
    lefts = {left for _, left in plan.origins}
    assert min(tops) == min(lefts) == 0
    assert max(tops) > height - MAX_TILE_PX - 8
    assert max(lefts) > 4000 - MAX_TILE_PX - 8


def test_pixels_are_the_images_own():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    plan = plan_tiles(700, 1100)
    tiles = cut_tiles(Image.fromarray(image), plan)
    assert tiles.shape == (len(plan.origins), 3, plan.height_px, plan.width_px)
    for tile, (top, left) in zip(tiles, plan.origins, strict=True):
        for channel in range(3):
            np.testing.assert_array_equal(
                tile[channel], image[top : top + plan.height_px, left : left + plan.width_px, channel]
            )


def test_too_small_is_refused():
    with pytest.raises(ValueError, match="smaller than 64"):
        plan_tiles(63, 500)
