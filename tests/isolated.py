"""One image decoded in a process apart, its tiles kept."""

from dataclasses import replace

from mdmf_ops.detector import ImageError, Limits
from mdmf_ops.images.isolation import decode_in_turn
from mdmf_ops.images.tiles import TiledImage, TileGeometry


def kept(answer: TiledImage | ImageError) -> TiledImage | ImageError:
    """An answer of `decode_in_turn` that stays as it is when the next one is asked for."""
    return answer if isinstance(answer, ImageError) else replace(answer, tiles=answer.tiles.copy())


def decode_isolated(content: bytes, geometry: TileGeometry, limits: Limits) -> TiledImage:
    """Raises what `decode_in_turn` yields."""
    [answer] = map(kept, decode_in_turn([content], geometry, limits))
    if isinstance(answer, ImageError):
        raise answer
    return answer
