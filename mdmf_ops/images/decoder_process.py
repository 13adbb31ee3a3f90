"""The process in which strangers' images are decoded: bytes in, tiles out, until its parent goes.

It holds no credentials and no detector. A decoder that hangs, dies, or eats memory takes this process and no other.

A request is a head of a slot and a length, and the image; a reply is a length and JSON, and the tiles lie in the slot,
in memory that both share. Never a pickle, since whoever breaks a decoder speaks with the parent from here on.
"""

import functools
import json
import os
import resource
import signal
import struct
from typing import Any, BinaryIO

from PIL import AvifImagePlugin

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.heap import give_back_memory, keep_free_memory
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.shared_tiles import SharedTiles
from mdmf_ops.images.tiles import TiledImage, TileGeometry, decode_tiles

REQUEST_HEAD = struct.Struct(">BQ")
REPLY_HEAD = struct.Struct(">I")
MAX_REPLY_BYTES = 1 << 12
"""A pipe takes a reply whole, and several: a decoder never waits for its parent."""

DESCRIPTION = ("width_px", "height_px", "image_format", "jpeg_quality", "decode_us")
"""What a reply says of an image; how its tiles lie follows from its size."""

_PIECE_BYTES, _KEPT_BYTES = 4 << 20, 32 << 20
"""Pixels of a megapixel stay with the process, and so much in all; what is larger goes back to the system."""


def main(fd: int, geometry: TileGeometry, limits: Limits) -> None:
    """Serves requests from standard input until it ends.

    Args:
        fd: of the memory that is shared.
        geometry: of the tiles.
        limits: of each image.
    """
    # What tells its parent to stop goes to all of a service: this process ends when its parent does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    shared = SharedTiles(fd, geometry)
    os.close(fd)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    try:
        _send(replies, {"ready": True})
    except BrokenPipeError:  # whoever asked for it is gone
        os._exit(0)
    # From here on whatever a C library prints about a hostile file goes nowhere.
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    keep_free_memory(_PIECE_BYTES, _KEPT_BYTES)
    # Else a thread for each core: stacks and scratch of all count, and whether an image fits its limit of memory would
    # depend on the machine.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    held_bytes = idle_bytes = _data_bytes()
    while head := requests.read(REQUEST_HEAD.size):
        slot, content_bytes = REQUEST_HEAD.unpack(head)
        content = requests.read(content_bytes)
        try:
            tiled = _decode(content, limits, geometry, held_bytes, shared[slot])
        except ImageError as error:
            _send(replies, {"error": error.code.value, "message": error.message})
        except MemoryError:
            _send(replies, {"error": ErrorCode.OUT_OF_MEMORY.value, "message": "not enough memory for the tiles"})
        else:
            _send(replies, {name: getattr(tiled, name) for name in DESCRIPTION})
        content = tiled = None
        if (held_bytes := _data_bytes()) > idle_bytes + _KEPT_BYTES:
            give_back_memory()
            held_bytes = _data_bytes()


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    """Writes one reply."""
    text = json.dumps(message).encode()
    replies.write(REPLY_HEAD.pack(len(text)) + text)
    replies.flush()


def _decode(content: bytes, limits: Limits, geometry: TileGeometry, held_bytes: int, memory: memoryview) -> TiledImage:
    """Decodes with memory bounded above what this process held before it was given the image, which therefore fails or
    not whatever came before it; ends the process if its parent is not there to do so in time.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    signal.setitimer(signal.ITIMER_REAL, 5 * limits.max_decode_s)
    if held_bytes:  # Linux, where the limit counts what is allocated
        most_bytes = held_bytes + limits.max_decode_bytes
        if before[1] != resource.RLIM_INFINITY:
            most_bytes = min(most_bytes, before[1])
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, before[1]))
    try:
        return decode_tiles(content, geometry, limits, memory)
    finally:
        # Two plain calls: where memory is full, there is none to run a context manager.
        resource.setrlimit(resource.RLIMIT_DATA, before)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _data_bytes() -> int:
    """What this process has allocated, as RLIMIT_DATA counts it; 0 where Linux does not say."""
    try:
        return int(os.pread(_statm(), 256, 0).split()[5]) * resource.getpagesize()
    except OSError:
        return 0


@functools.lru_cache(1)
def _statm() -> int:
    """Opened once: it is read after each image."""
    return os.open("/proc/self/statm", os.O_RDONLY)
