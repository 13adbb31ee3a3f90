"""A row's map as pictures: at the true places, on one scale, refused where it does not fit."""

import base64
import io

import numpy as np
import pytest
from conftest import photo
from outputs import scored_row
from PIL import Image

from mdmf_ops.report.heatmap import colour, full_scale, overlay, strongest_patches, tile_png, tiles_of


def with_evidence(evidence, **fields):
    return scored_row("/a.jpg", 0.5, patch_evidence=np.asarray(evidence, np.float32), **fields)


def hot(patch):
    evidence = np.zeros(24)
    evidence[patch] = 1
    return with_evidence(evidence)


@pytest.mark.parametrize(
    ("patch", "box"),
    [
        (0, (0, 0, 32, 32)),
        (3, (96, 0, 128, 32)),
        (4, (0, 32, 32, 64)),
        (12, (128, 96, 160, 128)),
        (23, (224, 160, 256, 192)),
    ],
)
@pytest.mark.parametrize("image", [None, Image.fromarray(photo(1, 192, 256))], ids=["ground", "image"])
def test_a_patch_is_drawn_at_its_true_place(patch, box, image):
    plain = np.asarray(overlay(with_evidence(np.zeros(24)), 1, image, 1)).astype(int)
    drawn = np.asarray(overlay(hot(patch), 1, image, 1)).astype(int)
    rows, cols = np.nonzero(np.abs(drawn - plain).sum(axis=2))
    assert (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1) == box
    assert len(rows) == 32 * 32


def test_an_image_under_no_evidence_is_its_own_grey():
    image = Image.fromarray(photo(2, 192, 256))
    drawn = np.asarray(overlay(with_evidence(np.full(24, -1)), 1, image, 1)).astype(int)
    assert (drawn.max(axis=2) == drawn.min(axis=2)).all()
    assert np.corrcoef(drawn[..., 0].ravel(), np.asarray(image.convert("L")).ravel())[0, 1] > 0.999


def test_a_huge_image_gives_a_small_picture_with_its_patches_in_place():
    tiles = [{"top_px": 0, "left_px": 19_200, "height_px": 96, "width_px": 128}]
    row = with_evidence(np.ones(12), width_px=20_000, height_px=10_000, tiles=tiles)
    drawn = np.asarray(overlay(row, 1, None, 1 / 20)).astype(int)
    assert drawn.shape == (500, 1000, 3)
    changed = np.abs(drawn - drawn[-1, 0]).sum(axis=2) > 0
    assert changed[:, 960:966].any() and not changed[:, :959].any() and not changed[6:].any()


def test_colour_rises_with_evidence_in_opacity_and_lightness():
    rgba = colour(np.linspace(0, 1, 50), 1).astype(int)
    assert (np.diff(rgba[:, 3]) > 0).all()
    assert (np.diff(rgba[:, :3] @ [0.299, 0.587, 0.114]) > 0).all()
    assert rgba[0, 3] == 0
    assert (colour(np.array([-5.0, 0, np.nan]), 1)[:, 3] == 0).all()
    assert (colour(np.array([1.0, 9, np.inf]), 1)[1:] == colour(np.array([1.0]), 1)).all()


def test_a_tile_travels_as_one_pixel_a_patch():
    tile = tiles_of(with_evidence(np.linspace(-1, 1, 24)))[1]
    kind, content = tile_png(tile, 1).split(",")
    assert kind == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert pixels.shape == (3, 4, 4)
    assert (pixels == colour(tile.evidence, 1)).all()


def test_the_strongest_patches_are_those_of_the_flat_evidence():
    row = scored_row("/a.jpg", 0.5, seed=7)
    found = strongest_patches(tiles_of(row), 6)
    places = np.argsort(-row["patch_evidence"])[:6]
    tops, lefts = 32 * (places % 12 // 4) + 96 * (places // 12), 32 * (places % 4) + 128 * (places // 12)
    assert [(p.top_px, p.left_px) for p in found] == list(zip(tops.tolist(), lefts.tolist(), strict=True))
    assert [p.evidence for p in found] == row["patch_evidence"][places].tolist()


@pytest.mark.parametrize(
    "damage",
    [
        {"patch_evidence": [0.1] * 23},
        {"patch_evidence": []},
        {"patch_evidence": [0.1] * 23 + [np.nan]},
        {"patch_evidence": [np.inf] + [0.1] * 23},
        {"patch_evidence": [None] + [0.1] * 23},
        {"grid_rows": 0},
        {"tiles": []},
        {"tiles": None},
        {"patch_px": -32},
        {"width_px": 255},
        {"tiles": [{"top_px": -1, "left_px": 0, "height_px": 96, "width_px": 128}] * 2},
    ],
)
def test_a_map_that_does_not_fit_is_refused(damage):
    with pytest.raises(ValueError, match=r"damaged|no map"):
        tiles_of(scored_row("/a.jpg", 0.5) | damage)


@pytest.mark.parametrize("evidence", [np.empty(0), np.zeros(5), np.full(5, -1.0)])
def test_the_full_scale_is_never_nothing(evidence):
    assert full_scale(evidence) > 0
