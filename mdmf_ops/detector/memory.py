"""How many tiles an accelerator's memory takes at once: arithmetic, so that running out of it stays the exception."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdmf_ops.detector.backbone import Backbone

_USED = 0.8
"""Share of what the weights leave that activations may fill: the rest is for the bank's kernels, workspaces, gaps."""


def weight_bytes(backbone: "Backbone") -> int:
    """Size of an extractor's weights."""
    return sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))


def tiles_at_once(backbone: "Backbone", height_px: int, width_px: int, memory_bytes: int) -> int:
    """The most tiles that an extractor is given at once; at least one, which may not fit.

    It follows from the device's whole memory, not from what is free now: the same image is cut into the same batches
    each time.

    Args:
        height_px, width_px: of a tile.
        memory_bytes: of the whole device.
    """
    room_bytes = _USED * (memory_bytes - weight_bytes(backbone))
    return max(1, int(room_bytes // backbone.activation_bytes(height_px, width_px)))
