"""Patch embeddings of labelled images after a random chain, computed once and kept on disk.

The extractor is frozen: what changes between trainings is the signature, which learns from these in a minute.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdmf_ops.cores import usable_cores
from mdmf_ops.detector import decode, frequencies, jpeg_pixels, tiles
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.tiles import cut_tiles, plan_tiles
from mdmf_ops.detector.worker import be_one_of_several
from mdmf_ops.training import augment
from mdmf_ops.training.data import LabelledImage

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


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

    A copy is kept in `folder` once it is done, so that an interrupted extraction goes on where it was.

    Args:
        chain: name of a chain of `mdmf_ops.training.augment`, or `none` for the images as they are; or one of another
            module, whose `repr` names it.
        seed: image i in copy c draws from (seed, c, i) whatever the number of processes.

    Raises:
        ValueError: an image cannot be decoded; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The text of all that made them: features of a chain or an extractor that was changed since are no longer theirs.
    modules = {augment, tiles, frequencies, jpeg_pixels, *map(inspect.getmodule, (decode, Backbone, type(backbone)))}
    if not isinstance(chain, str):
        modules.add(inspect.getmodule(chain))
    text = "".join(sorted(map(inspect.getsource, modules)))
    made_by = f"{chain} {seed} {backbone.geometry} {backbone.embedding_dim} {text}"
    digest = hashlib.sha256(made_by.encode())
    digest.update(Path(inspect.getfile(Backbone)).with_name("micro.onnx").read_bytes())  # what `seen` runs on a CPU
    for tensor in backbone.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for image in images:
        digest.update(image.sha256)
    parts = []
    workers = usable_cores()
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(backbone,)) as pool:
        for copy in range(copies):
            path = folder / f"{digest.hexdigest()[:16]}-{copy}.npz"
            if not path.exists():
                embed = partial(_embed, chain, (seed, copy))
                done = []
                for part in pool.map(embed, range(len(images)), images, chunksize=8):
                    done.append(part)
                    progress(copy * len(images) + len(done), copies * len(images))
                partial_path = path.with_suffix(".tmp.npz")
                np.savez(partial_path, seen=np.concatenate(done), counts=[len(part) for part in done])
                partial_path.replace(path)
            with np.load(path) as saved:
                parts.append((saved["seen"], saved["counts"]))
    counts = np.stack([count for _, count in parts])
    ends = np.cumsum(counts).reshape(counts.shape)
    return Features(
        np.concatenate([seen for seen, _ in parts]),
        np.concatenate([(ends - counts)[:, :1], ends], axis=1),
        backbone.in_context,
        backbone.views,
        digest.hexdigest(),
    )


def _begin(backbone: Backbone) -> None:
    """Keeps the extractor in a worker process: it is not sent, and not set up, with each image."""
    global _backbone
    _backbone = backbone
    be_one_of_several()


@torch.inference_mode()
def _embed(chain: str | augment.Chain, seed: tuple[int, int], index: int, image: LabelledImage) -> np.ndarray:
    """(K, f) float16 of one image after the chain."""
    try:
        pixels = decode(image.path.read_bytes()).image
    except Exception as error:
        raise ValueError(f"{image.path}: {error}") from error
    if chain != "none":
        apply = getattr(augment, chain) if isinstance(chain, str) else chain
        pixels = apply(pixels, np.random.default_rng([*seed, index]))
    cut = cut_tiles(pixels, plan_tiles(pixels.height, pixels.width, _backbone.geometry))
    return _backbone.seen(cut).half().numpy()
