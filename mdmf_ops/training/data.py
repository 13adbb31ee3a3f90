"""Labelled images: where they lie, which class and source they are of, and which are kept from training."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HELD_OUT_FRACTION = 0.4
"""Of the real images, and of their generated twins: kept for calibration and evaluation."""


@dataclass(frozen=True)
class LabelledImage:
    """One labelled image.

    Attributes:
        path: the file.
        generated: whether a generator made it.
        source: generator or collection it comes from; sources are left out as a whole.
        twin_of: the real image that a generated one shows again; both are kept out together.
    """

    path: Path
    generated: bool
    source: str
    twin_of: Path | None = None

    @cached_property
    def held_out(self) -> bool:
        """Whether the image is kept from training: decided by its content (or its twin's), wherever it lies.

        No list of training images is needed to know, years later, which ones a detector has not seen.
        """
        digest = hashlib.sha256((self.twin_of or self.path).read_bytes()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_FRACTION * 2**32


def read_index(index: Path, pairs: Path | None = None) -> list[LabelledImage]:
    """Reads labelled images from a CSV of `path,label,source`, paths relative to the CSV.

    Args:
        index: label is `real` or `fake`.
        pairs: CSV with `path,real_path`, of generated images and the real ones that they show again.

    Raises:
        ValueError: a column or a file is missing, or a label is neither.
    """
    twins = {row["path"]: index.parent / row["real_path"] for row in _rows(pairs, "path", "real_path")} if pairs else {}
    images = []
    for row in _rows(index, "path", "label", "source"):
        if row["label"] not in ("real", "fake"):
            raise ValueError(f"{index}: {row['path']}: label is real or fake, found {row['label']!r}")
        path = index.parent / row["path"]
        if not path.is_file():
            raise ValueError(f"{index}: {path} is not there")
        images.append(LabelledImage(path, row["label"] == "fake", row["source"], twins.get(row["path"])))
    return images


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: columns {sorted(missing)} are missing")
        return list(reader)


def read_folders(real: Sequence[Path], fake: Sequence[Path]) -> list[LabelledImage]:
    """Reads labelled images from folders; each direct subfolder is a source, else the folder itself.

    Raises:
        ValueError: a folder has no files.
    """
    images = []
    for generated, folders in ((False, real), (True, fake)):
        for folder in folders:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if not files:
                raise ValueError(f"{folder}: no files in it")
            for path in files:
                inner = path.relative_to(folder).parts
                images.append(LabelledImage(path, generated, inner[0] if len(inner) > 1 else folder.name))
    return images


def sources(images: Iterable[LabelledImage], generated: bool) -> list[str]:
    """Names of the sources of one class, sorted."""
    return sorted({image.source for image in images if image.generated == generated})
