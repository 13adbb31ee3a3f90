"""Splices: what was replaced is known, and evidence is judged patch by patch."""

import numpy as np
import pytest
import torch
from conftest import encode, photo
from PIL import Image

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.micro import MicroBackbone
from mdmf_ops.detector.signature import Signature
from mdmf_ops.images.tiles import TileGeometry, plan_tiles
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.localise import Splice, localise, make_splices, replaced, splice


@pytest.mark.parametrize("size", [(300, 400), (700, 1300)])
def test_the_box_is_where_the_other_image_is(size):
    host, donor = Image.new("RGB", size[::-1], (30, 30, 30)), Image.new("RGB", (900, 600), (220, 220, 220))
    for seed in range(5):
        image, (left, top, right, bottom) = splice(host, donor, np.random.default_rng(seed))
        bright = np.asarray(image)[..., 0] > 125
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(found, (left, top, right, bottom), atol=2.5)
        assert image.width <= 512


@pytest.mark.parametrize("geometry", [TileGeometry(32, 512, 4), TileGeometry(16, 64, 9)])
def test_patches_are_inside_by_half_and_outside_by_none(geometry):
    plan = plan_tiles(190, 260, geometry)
    box = (37.0, 50.5, 150.0, 121.0)
    pixels = np.zeros((190 * 4, 260 * 4), bool)  # quarters of a pixel
    pixels[202:484, 148:600] = True
    expected = []
    for top, left in plan.origins:
        for row in range(plan.grid_rows):
            for col in range(plan.grid_cols):
                y, x = 4 * (top + row * plan.patch_px), 4 * (left + col * plan.patch_px)
                share = pixels[y : y + 4 * plan.patch_px, x : x + 4 * plan.patch_px].mean()
                expected.append(1 if share >= 0.5 else -1 if share > 0 else 0)
    np.testing.assert_array_equal(replaced(plan, box), expected)
    assert set(expected) == {-1, 0, 1}


class Plain(MicroBackbone):
    """Takes what is seen as the embedding."""

    def in_context(self, patches):
        return patches


def test_evidence_that_tells_the_replaced_part_is_counted_so():
    signature = Signature(1, 0, 1).eval()
    with torch.no_grad():
        signature.last[0].weight.fill_(1.0)
        signature.last[0].bias.zero_()
    bank = Bank.build(torch.linspace(-1, 1, 50)[None, :, None], signature.width)
    inside = np.array([1, 1, -1, 0, 0, 0, 0, 0], np.int8)
    far = Splice(np.where(inside == 1, 3, 0)[:, None].astype(np.float16), inside)
    half = Splice(np.array([3, 0, 9, 3, 0, 0, 0, 0], np.float16)[:, None], inside)
    whole = Splice(far.seen, np.ones(8, np.int8))  # nothing left to compare with
    found = localise("model", [far, half, whole], Plain(), signature, bank)
    assert (found.donor, found.images) == ("model", 2)
    # far: 1. half: of 2 x 5 pairs one of the two is over four and ties with one, the other ties with four, under one.
    assert found.auroc == pytest.approx((1 + (4.5 + 2) / 10) / 2)
    with pytest.raises(ValueError, match="model: no splice"):
        localise("model", [whole], Plain(), signature, bank)


def test_splices_are_the_same_whatever_the_number_of_processes(tmp_path):
    images = []
    for i in range(3):
        path = tmp_path / f"{i}.jpg"
        path.write_bytes(encode(photo(i, 120, 120)))
        images.append(LabelledImage(path, False, "web"))
    torch.manual_seed(0)
    backbone = MicroBackbone().eval()
    first, again = (make_splices(images[:2], images, 3, backbone, 5, lambda _done, _total: None) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.seen, other.seen)
        np.testing.assert_array_equal(one.inside, other.inside)
    assert any((one.seen.shape != first[0].seen.shape) or (one.seen != first[0].seen).any() for one in first[1:])
