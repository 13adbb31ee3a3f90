"""A whole picture for people to see: a stranger's still, and so decoded in a process apart as those that are scored."""

from contextlib import closing

import numpy as np
from PIL import Image

from mdmf_ops.errors import ImageError
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.isolation import decode_in_turn
from mdmf_ops.images.tiles import TileGeometry


def decode_whole(content: bytes, limits: Limits) -> Image.Image:
    """The image that `decode` gives, upright RGB, by another process.

    Raises:
        ImageError: as `decode` does, or `timeout`, `decoder_crashed`, `out_of_memory`.
        RuntimeError: no process can be started.
    """
    # One tile of all there is; memory that no pixel touches takes none.
    with closing(decode_in_turn([content], TileGeometry(1, limits.max_side_px, max_tiles=1), limits)) as answers:
        answer = next(answers)
        if isinstance(answer, ImageError):
            raise answer
        return Image.fromarray(np.ascontiguousarray(answer.tiles[0].transpose(1, 2, 0)))  # a copy
