"""Patch embeddings of labelled images after a random chain, computed once and kept on disk.

The extractor is frozen: what changes between trainings is the signature, which learns from these in a minute.
"""

import functools
import hashlib
import inspect
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.worker import be_one_of_several
from mdmf_ops.heap import give_back_memory
from mdmf_ops.images.decode import decode
from mdmf_ops.images.tiles import cut_tiles, plan_tiles
from mdmf_ops.training import augment
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.processes import workers

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""

_MOST_NAMED = 10
"""Of the images that cannot be decoded, so many are named in an error."""


@dataclass(frozen=True)
class Features:
    """Patch embeddings of images, each image once a copy of the chain.

    Attributes:
        seen: (P, f) float16, what the extractor sees of the patches of all images and copies, one after the other.
        starts: (copies, images + 1) int64, first patch of each image in each copy.
        in_context: of the extractor, (K, f) of one image -> (K, d).
        views: of the extractor's embedding, for the signature; None is one of all numbers.
        digest: SHA-256, in hex, of all that makes a copy: the images' content in their order, chain, extractor, code.
    """

    seen: np.ndarray
    starts: np.ndarray
    in_context: Callable[[Tensor], Tensor] = lambda patches: patches
    views: Sequence[Sequence[int]] | None = None
    digest: str = ""

    @property
    def copies(self) -> int:
        """How often each image went through the chain."""
        return len(self.starts)

    def counts(self, copy: int = 0) -> np.ndarray:
        """(images,) int64: patches of each image in one copy."""
        return np.diff(self.starts[copy])

    def patches(self, image: int, copy: int = 0) -> np.ndarray:
        """(K, d) float32: all patches of one image after one copy of the chain."""
        seen = self.seen[self.starts[copy, image] : self.starts[copy, image + 1]]
        return self.in_context(torch.from_numpy(seen).float()).numpy()

    def means(self, images: Sequence[int]) -> np.ndarray:
        """(copies * len(images), d) float32: each image's mean embedding over its patches, copy by copy."""
        return self._means[:, images].reshape(-1, self._means.shape[2])

    @functools.cached_property
    def _means(self) -> np.ndarray:
        """(copies, images, d): computed once in a process, however many folds it trains."""
        copies, ends = self.starts.shape
        means = [[self.patches(image, copy).mean(0) for image in range(ends - 1)] for copy in range(copies)]
        return np.array(means, np.float32)

    def sample(self, image: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, d) float32: random patches of a random copy; repeated only where there are fewer."""
        patches = self.patches(image, int(rng.integers(self.copies)))
        return patches[rng.choice(len(patches), count, replace=len(patches) < count)]


def extract(
    images: Sequence[LabelledImage],
    backbone: Backbone,
    chain: str | augment.Chain,
    copies: int,
    seed: int,
    folder: Path,
    progress: Progress = lambda done, total: None,
) -> Features:
    """Embeds every image `copies` times, each time through the random chain anew.

    A copy is kept in `folder` once it is done, so that an interrupted extraction goes on from the last one. One that
    is damaged is made anew.

    Args:
        chain: name of a chain of `mdmf_ops.training.augment`, or `none` for the images as they are; or one of another
            module, whose `repr` names it.
        seed: image i in copy c draws from (seed, c, i) whatever the number of processes.

    Raises:
        ValueError: images cannot be decoded; names the first of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{chain} {seed} {backbone.geometry} {backbone.embedding_dim}".encode())
    # The text of all that may have made them: features of a chain, a decoder or an extractor that was changed since
    # are no longer theirs.
    room = Path(inspect.getfile(Backbone)).parent
    texts = (*room.glob("*.py"), *room.parent.glob("images/*.py"))
    makers = [augment, type(backbone), *([] if isinstance(chain, str) else [chain])]
    files = {inspect.getmodule(maker).__file__ for maker in makers} | {*map(str, texts)}
    for file in (*sorted(files), room / "micro.onnx"):  # which `seen` runs on a CPU
        digest.update(Path(file).read_bytes())
    for tensor in backbone.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for image in images:
        digest.update(image.sha256)
    paths = [folder / f"{digest.hexdigest()[:16]}-{copy}.npz" for copy in range(copies)]
    broken = multiprocessing.Event()
    with workers(_begin, backbone, broken) as pool:
        for copy, path in enumerate(paths):
            if not _is_whole(path):
                embed = partial(_embed, chain, (seed, copy))
                done, refused = [], []
                for part in pool.map(embed, range(len(images)), images, chunksize=8):
                    (refused if isinstance(part, str) else done).append(part)
                    progress(copy * len(images) + len(done) + len(refused), copies * len(images))
                if refused:
                    named = [*refused[:_MOST_NAMED], *["..."] * (len(refused) > _MOST_NAMED)]
                    raise ValueError(
                        f"images that cannot be decoded, {len(refused)} of {len(images)}: {'; '.join(named)}"
                    )
                _save(path, done)
                del done  # as large as what is read from the file again
                give_back_memory()
    seen, counts = _load(paths)
    ends = np.cumsum(counts).reshape(counts.shape)
    return Features(
        seen,
        np.concatenate([(ends - counts)[:, :1], ends], axis=1),
        backbone.in_context,
        backbone.views,
        digest.hexdigest(),
    )


def _is_whole(path: Path) -> bool:
    """Whether a copy is there, and as it was written."""
    try:
        with zipfile.ZipFile(path) as saved:
            return sorted(saved.namelist()) == ["counts.npy", "seen.npy"] and saved.testzip() is None
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile):
        return False


def _save(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Writes one copy as `np.savez` would, image by image: all of them in one array would take their memory twice."""
    counts = np.array([len(part) for part in parts])
    shape = (int(counts.sum()), *parts[0].shape[1:])
    partial_path = path.with_suffix(f".{os.getpid()}.tmp")  # two trainings may make the same copy at once
    try:
        with zipfile.ZipFile(partial_path, "w") as saved:
            with saved.open("seen.npy", "w", force_zip64=True) as file:
                header = {"descr": parts[0].dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for part in parts:
                    file.write(part.tobytes())
            with saved.open("counts.npy", "w") as file:
                np.lib.format.write_array(file, counts)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def _load(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """`Features.seen` and the (copies, images) counts of what `_save` wrote, with one copy more in memory at most."""
    counts = np.stack([_read(path, "counts") for path in paths])
    first = _read(paths[0], "seen")
    if len(paths) == 1:
        return first, counts
    seen = np.empty((counts.sum(), first.shape[1]), first.dtype)
    of_copy = np.split(seen, counts.sum(axis=1).cumsum()[:-1])
    of_copy[0][:] = first
    del first
    for part, path in zip(of_copy[1:], paths[1:], strict=True):
        part[:] = _read(path, "seen")
    return seen, counts


def _read(path: Path, name: str) -> np.ndarray:
    with np.load(path) as saved:
        return saved[name]


def _begin(backbone: Backbone, broken: Event) -> None:
    """Keeps the extractor in a worker process: it is not sent, and not set up, with each image."""
    global _backbone, _broken
    _backbone, _broken = backbone, broken
    be_one_of_several()


@torch.inference_mode()
def _embed(chain: str | augment.Chain, seed: tuple[int, int], index: int, image: LabelledImage) -> np.ndarray | str:
    """(K, f) float16 of one image after the chain, or why it cannot be decoded.

    Once one cannot be, the others are only decoded: what is embedded would be of no use.
    """
    try:
        pixels = decode(image.path.read_bytes()).image
    except Exception as error:
        _broken.set()
        return f"{image.path}: {error}"
    if _broken.is_set():
        return np.empty(0)
    if chain != "none":
        apply = getattr(augment, chain) if isinstance(chain, str) else chain
        pixels = apply(pixels, np.random.default_rng([*seed, index]))
    cut = cut_tiles(pixels, plan_tiles(pixels.height, pixels.width, _backbone.geometry))
    return _backbone.seen(cut).half().numpy()
