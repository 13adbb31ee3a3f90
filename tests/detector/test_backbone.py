"""What every extractor promises: shapes, dtypes, and embeddings that depend on their own tile alone."""

import numpy as np
import pytest
import torch
from conftest import photo

from mdmf_ops.detector.micro import MicroBackbone

SIZES = [(64, 64), (64, 96), (160, 64), (512, 512)]
"""(height, width) of a tile, px: the smallest, uneven ones, the largest."""


PATCH_PX = MicroBackbone.geometry.patch_px


@pytest.fixture(scope="module")
def backbone():
    """`micro` with seeded random weights: the promises are not those of trained ones. DINOv2 has tests of its own."""
    torch.manual_seed(0)
    return MicroBackbone().eval()


def tiles(count, height, width):
    """(count, 3, height, width) uint8, each another picture."""
    return torch.from_numpy(np.stack([photo(i, height, width).transpose(2, 0, 1) for i in range(count)]))


def embed(backbone, batch):
    with torch.inference_mode():
        return backbone(batch)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_tile_gives_one_embedding_for_each_patch(backbone, height, width):
    embeddings = embed(backbone, tiles(2, height, width))
    assert embeddings.shape == (2, height // PATCH_PX, width // PATCH_PX, backbone.PATCH_DIM)
    assert embeddings.dtype == torch.float32
    assert embeddings.isfinite().all()


@pytest.mark.parametrize(("height", "width"), SIZES[:3])
def test_a_tile_does_not_see_the_others_of_its_batch(backbone, height, width):
    batch = tiles(5, height, width)
    together = embed(backbone, batch)
    alone = torch.cat([embed(backbone, batch[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embed(backbone, batch.flip(0)).flip(0), together, atol=1e-5, rtol=1e-5)
    # And it does see its own pixels.
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_the_same_tiles_give_the_same_bits(backbone):
    batch = tiles(3, 96, 128)
    assert torch.equal(embed(backbone, batch), embed(backbone, batch))


@pytest.mark.parametrize("shade", [0, 127, 255])
def test_a_flat_tile_is_finite(backbone, shade):
    flat = torch.full((1, 3, 96, 96), shade, dtype=torch.uint8)
    assert embed(backbone, flat).isfinite().all()


def test_a_memory_layout_of_the_tiles_does_not_matter(backbone):
    batch = tiles(2, 96, 128)
    other = batch.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(embed(backbone, other), embed(backbone, batch), atol=1e-5, rtol=1e-5)


def test_rows_and_columns_of_patches_are_those_of_the_tile(backbone):
    # A bright patch in an otherwise dark tile changes its own embedding more than any other.
    dark = torch.full((1, 3, 160, 224), 40, dtype=torch.uint8)
    bright = dark.clone()
    row, column = 1, 5
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, PATCH_PX, PATCH_PX), dtype=np.uint8))
    top, left = row * PATCH_PX, column * PATCH_PX
    bright[0, :, top : top + PATCH_PX, left : left + PATCH_PX] = noise
    change = (embed(backbone, bright) - embed(backbone, dark)).norm(dim=-1)[0]
    assert divmod(int(change.argmax()), change.shape[1]) == (row, column)


class Cramped(MicroBackbone):
    """Has room for `room` tiles at once: a fault injected where a CUDA device would raise it."""

    def __init__(self, room):
        super().__init__()
        self.room, self.asked = room, []

    def forward(self, tiles):
        self.asked.append(len(tiles))
        if len(tiles) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (injected)")
        return super().forward(tiles)


def test_an_accelerator_is_given_all_tiles_of_an_image_at_once(monkeypatch):
    backbone = Cramped(room=4).eval()
    monkeypatch.setattr(Cramped, "parameters", lambda _self: iter([torch.empty(0, device="meta")]))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(MicroBackbone, "forward", lambda _self, tiles: torch.zeros(len(tiles), 2, 2, 1))
    assert backbone.seen(tiles(4, 64, 64).numpy()).shape == (16, 1)
    assert backbone.asked == [4]


def test_out_of_memory_halves_the_batch_and_goes_on(backbone):
    cramped = Cramped(room=2).eval()
    cramped.load_state_dict(backbone.state_dict())
    batch = tiles(7, 64, 96)
    with torch.inference_mode():
        found = cramped._seen(batch, len(batch), torch.device("cpu"))
    assert cramped.asked == [7, 4, 2, 2, 2, 1]
    torch.testing.assert_close(found, embed(backbone, batch).flatten(0, 2), atol=1e-5, rtol=1e-5)


def test_a_tile_that_does_not_fit_alone_is_an_error():
    cramped = Cramped(room=0).eval()
    with torch.inference_mode(), pytest.raises(torch.cuda.OutOfMemoryError):
        cramped._seen(tiles(4, 64, 64), 4, torch.device("cpu"))
    assert cramped.asked == [4, 2, 1]
