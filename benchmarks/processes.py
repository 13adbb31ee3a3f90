"""A process and all that descend from it, on Linux."""

from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and its children, and theirs; those that ended meanwhile may be among them."""
    children: list[int] = []
    with suppress(OSError):  # the process ended
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):  # one of its threads did
                children += map(int, path.read_text().split())
    return [pid, *(one for child in children for one in family(child))]
