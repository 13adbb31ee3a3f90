"""Memory that a decoder shares with its parent: tiles are written there once, and copied nowhere.

Sent through a pipe, the tiles of an image of 400 px are copied twice: a twentieth of all the time that it takes.
"""

import fcntl
import mmap
import os
import tempfile

from mdmf_ops.detector.tiles import TileGeometry

AHEAD = 4
"""Images that a decoder may have before it while the tiles of one are read."""

_SLOTS = AHEAD + 1


class SharedTiles:
    """Room for the tiles of several images, each image's in the next slot of a ring: both sides count.

    Args:
        fd: of `open_memory`; the caller's to close.
        geometry: of the tiles.
    """

    def __init__(self, fd: int, geometry: TileGeometry):
        self._slot_bytes = geometry.max_bytes
        self._memory = memoryview(mmap.mmap(fd, _SLOTS * self._slot_bytes))
        self._count = 0

    def next(self) -> memoryview:
        """The slot of the next image."""
        start = self._count % _SLOTS * self._slot_bytes
        self._count += 1
        return self._memory[start : start + self._slot_bytes]


def open_memory(geometry: TileGeometry) -> int:
    """A file descriptor of memory for `SharedTiles`; what no tile touches takes none."""
    size_bytes = _SLOTS * geometry.max_bytes
    if not hasattr(os, "memfd_create"):  # not Linux
        with tempfile.TemporaryFile() as file:
            file.truncate(size_bytes)
            return os.dup(file.fileno())
    fd = os.memfd_create("mdmf-tiles", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    # Whoever breaks the decoder could shorten it, and its parent would die reading.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
