"""Memory that a decoder shares with its parent: tiles are written there once, and copied nowhere.

Sent through a pipe, the tiles of an image of 400 px are copied twice: a twentieth of all the time that it takes.
"""

import fcntl
import mmap
import os
import tempfile

from mdmf_ops.images.tiles import TileGeometry

_MOST_SLOTS, _MOST_BYTES = 17, 64 << 20


class SharedTiles:
    """Room for the tiles of several images, one in each slot.

    Args:
        fd: of `open_memory`; the caller's to close.
        geometry: of the tiles.

    Attributes:
        slots: how many; two or more, so that one can be read while another is written.
    """

    def __init__(self, fd: int, geometry: TileGeometry):
        self.slots = _slots(geometry)
        self._slot_bytes = geometry.max_bytes
        self._memory = memoryview(mmap.mmap(fd, self.slots * self._slot_bytes))

    def __getitem__(self, slot: int) -> memoryview:
        return self._memory[slot * self._slot_bytes :][: self._slot_bytes]


def _slots(geometry: TileGeometry) -> int:
    return max(2, min(_MOST_SLOTS, _MOST_BYTES // geometry.max_bytes))


def open_memory(geometry: TileGeometry) -> int:
    """A file descriptor of memory for `SharedTiles`; what no tile touches takes none."""
    size_bytes = _slots(geometry) * geometry.max_bytes
    if not hasattr(os, "memfd_create"):  # not Linux
        with tempfile.TemporaryFile() as file:
            file.truncate(size_bytes)
            return os.dup(file.fileno())
    fd = os.memfd_create("mdmf-tiles", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    # Whoever breaks the decoder could shorten it, and its parent would die reading.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
