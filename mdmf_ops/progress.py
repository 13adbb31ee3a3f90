"""How far a run on this machine is, told across its worker processes."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Counts kept as sizes of files in a folder: each process appends a byte to its own for each thing done.

    Beam's local runner reports metrics only when it ends. An append is atomic, needs no server and survives a
    killed worker.

    Attributes:
        folder: an existing folder on this machine.
    """

    folder: str

    def add(self, what: str, count: int = 1) -> None:
        """Counts `count` more of `what`."""
        # Four times as fast as open(): an image takes milliseconds, and counting it should not be seen among them.
        file = os.open(f"{self.folder}/{what}-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, b"." * count)
        finally:
            os.close(file)

    def total(self, what: str) -> int:
        """Count of `what` over all processes."""
        return sum(path.stat().st_size for path in Path(self.folder).glob(f"{what}-*"))
