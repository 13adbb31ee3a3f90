"""What every patch extractor offers: tiles of pixels to one embedding for each patch."""

import numpy as np
import torch
from torch import Tensor, nn

from mdmf_ops.images.tiles import TileGeometry


class Backbone(nn.Module):
    """What every extractor offers.

    Attributes:
        embedding_dim: d, length of an embedding, context included.
        geometry: of the tiles it takes, with p the side of a patch, `geometry.patch_px`.
        views: ranges of the embedding that a signature reads apart; see `Signature`.
        stored_dtype: of the weights in a file; they are float32 in memory.

    `forward` takes tiles (T, 3, H, W) uint8 RGB, H and W multiples of p, and returns (T, H/p, W/p, f) float32: what is
    seen of each patch. `in_context` makes embeddings of it.
    """

    embedding_dim: int
    geometry: TileGeometry
    stored_dtype: torch.dtype = torch.float32

    @property
    def views(self) -> tuple[tuple[int, int], ...]:
        """One view of all numbers, where an extractor knows no better."""
        return ((0, self.embedding_dim),)

    def embed(self, tiles: np.ndarray) -> Tensor:
        """Embeds one image.

        Args:
            tiles: (T, 3, H, W) uint8, from `cut_tiles`.

        Returns:
            (K, d) float32 of all its patches, tile by tile in raster order.
        """
        return self.in_context(self.seen(tiles))

    def seen(self, tiles: np.ndarray) -> Tensor:
        """(K, f) float32: what is seen of each patch of one image, not yet in context; see `embed`."""
        device = next(self.parameters()).device
        # On a CPU one tile at a time bounds the memory; an accelerator is filled by all of them.
        if device.type == "cpu":
            return self._seen(torch.from_numpy(tiles), 1, device)
        # From pinned memory they are copied while the device computes.
        return self._seen(torch.from_numpy(tiles).pin_memory(), len(tiles), device)

    def in_context(self, patches: Tensor) -> Tensor:
        """(K, f) of all patches of one image -> (K, d): as they are, where an extractor knows no better."""
        return patches

    def _seen(self, tiles: Tensor, at_once: int, device: torch.device) -> Tensor:
        """Runs so many tiles at once, and half of them where they do not fit the accelerator's memory."""
        while True:
            try:
                parts = (part.to(device, non_blocking=True) for part in tiles.split(at_once))
                return torch.cat([self(part).flatten(0, 2) for part in parts])
            except torch.cuda.OutOfMemoryError:
                if at_once == 1:
                    raise
            # Outside of the handler: there the error's traceback would still hold what did not fit.
            torch.cuda.empty_cache()
            at_once = -(-at_once // 2)
