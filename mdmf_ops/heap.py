"""What becomes of memory that is free again, where the C library is glibc; elsewhere these functions do nothing.

By default glibc gives back what an image took as soon as it is done, and the next one asks for it again, page by page:
a fifth of an image's time on a CPU.
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_free_memory(piece_bytes: int = 32 << 20, most_bytes: int = 128 << 20) -> None:
    """From now on this process keeps free memory for itself: by default, all that a network takes for a tile.

    Args:
        piece_bytes: larger pieces are given back all the same; at most 32 MiB.
        most_bytes: of free memory at the end of the heap.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, piece_bytes)
        mallopt(_M_TRIM_THRESHOLD, most_bytes)


def keep_no_free_memory() -> None:
    """Gives free memory back to the system, now and from now on, until `keep_free_memory`. For where megabytes are only
    passed on: on the way some ten copies of them are made, none of which lasts."""
    keep_free_memory(piece_bytes=256 << 10, most_bytes=1 << 20)
    give_back_memory()


def give_back_memory() -> None:
    """Gives free memory back to the system, once, that amid what is in use too."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
