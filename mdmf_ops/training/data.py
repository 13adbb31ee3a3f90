"""Labelled images: where they lie, which class and source they are of, and which are kept from training."""

import csv
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HELD_OUT_FRACTION = 0.4
"""Of all images, a generated twin with its original: kept for calibration and evaluation."""


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
    def sha256(self) -> bytes:
        """Digest of the content: the file is read once."""
        return hashlib.sha256(self.path.read_bytes()).digest()

    @cached_property
    def original_sha256(self) -> bytes:
        """Digest of the real image that it shows again, where it does, else its own."""
        return hashlib.sha256(self.twin_of.read_bytes()).digest() if self.twin_of else self.sha256

    @property
    def held_out(self) -> bool:
        """Whether the image is kept from training: decided by its content (or its original's), wherever it lies.

        No list of training images is needed to know, years later, which ones a detector has not seen.
        """
        return int.from_bytes(self.original_sha256[:4], "big") < HELD_OUT_FRACTION * 2**32


def read_pairs(pairs: Path) -> dict[Path, Path]:
    """Reads which generated images show a real one again from a CSV of `path,real_path`, both relative to the CSV.

    Returns:
        The real image of each generated one, by the latter's resolved path.

    Raises:
        ValueError: it is no such CSV, or a cell is empty.
    """
    return {
        (pairs.parent / row["path"]).resolve(): pairs.parent / row["real_path"]
        for row in _rows(pairs, "path", "real_path")
    }


def read_index(index: Path, twins: Mapping[Path, Path] | None = None) -> list[LabelledImage]:
    """Reads labelled images from a CSV of `path,label,source`, paths relative to the CSV.

    Args:
        index: label is `real` or `fake`.
        twins: what `read_pairs` gives.

    Raises:
        ValueError: it is no such CSV, a cell is empty, a file is missing, a label is neither, or a twin is a real
            image.
    """
    images = []
    for row in _rows(index, "path", "label", "source"):
        if row["label"] not in ("real", "fake"):
            raise ValueError(f"{index}: {row['path']}: label is real or fake, found {row['label']!r}")
        path = index.parent / row["path"]
        if not path.is_file():
            raise ValueError(f"{index}: {path} is not there")
        generated, twin_of = row["label"] == "fake", (twins or {}).get(path.resolve())
        if twin_of and not generated:
            raise ValueError(f"{index}: {path} is real, and by the pairs a generated twin of {twin_of}")
        images.append(LabelledImage(path, generated, row["source"], twin_of))
    return images


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:  # Excel begins a file with a byte order mark
        reader = csv.DictReader(file, strict=True)  # else a quote that is not closed takes in the lines behind it
        whole = 0  # lines that were read and understood
        try:
            missing = set(columns) - set(reader.fieldnames or ())
            whole = reader.line_num
            if missing:
                raise ValueError(f"{path}: columns {sorted(missing)} are missing")
            rows = []
            for row in reader:
                if empty := [column for column in columns if not row[column]]:
                    raise ValueError(f"{path}: line {reader.line_num}: no {' and no '.join(empty)}")
                rows.append(row)
                whole = reader.line_num
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: after line {whole}: {error}") from error
    return rows


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
            # From within it too, where `.` has no name: a source that was trained on is known by its name.
            own = Path(os.path.abspath(folder)).name  # noqa: PTH100  # a link keeps its own
            for path in files:
                inner = path.relative_to(folder).parts
                images.append(LabelledImage(path, generated, inner[0] if len(inner) > 1 else own))
    return images


def unseen_real(image: LabelledImage, trained: Collection[str]) -> bool:
    """Whether an image is a real one that a detector trained on these sources did not see."""
    return not image.generated and (image.held_out or image.source not in trained)


def sources(images: Iterable[LabelledImage], generated: bool) -> list[str]:
    """Names of the sources of one class, sorted."""
    return sorted({image.source for image in images if image.generated == generated})
