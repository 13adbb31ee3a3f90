"""`Scorer`: bytes of images to scores, wherever the network runs that finds the evidence in their tiles."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

import model_assets
from mdmf_ops.detector.calibration import Calibration, Verdict, verdict
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.isolation import decode_in_turn
from mdmf_ops.images.tiles import TiledImage, TileGeometry, TilePlan, decode_tiles


@dataclass(frozen=True)
class Score:
    """What the detector says of one image.

    Attributes:
        mmd2: unbiased squared MMD to the bank of real patches, the mean of `evidence`; may be negative.
        p_value: conformal, in (0, 1].
        verdict: of the p-value at `alpha`.
        evidence: (T * grid_rows * grid_cols,) float32, tile by tile, each in raster order.
        plan: where the tiles lie, in px of the upright image.
        width_px, height_px: of the upright image; its pixels are not kept.
        decode_us, score_us: how long it took, in microseconds, where `Detector.score` was asked; else 0. While one
            image is scored the next ones are decoded. On an accelerator several are scored at once: `score_us` has the
            wait for those before in it, and may sum to more than the time that passed.
    """

    mmd2: float
    p_value: float
    verdict: Verdict
    alpha: float
    calibration_id: str
    evidence: np.ndarray
    plan: TilePlan
    width_px: int
    height_px: int
    image_format: str
    jpeg_quality: int | None
    decode_us: int = 0
    score_us: int = 0


@dataclass(frozen=True)
class Terms:
    """All that a score follows from but the pixels and the network: plain data, which can go to another process.

    Attributes:
        geometry: of the tiles that the network takes.
        device: where the network runs: `cpu`, or `cuda` and the name of the GPU.
        precision: of the backbone's arithmetic, `float32` or `bfloat16`; all else is float32.
        assets: the detector's checked folder; None where it was put together in this process.
    """

    geometry: TileGeometry
    calibration: Calibration
    device: str
    precision: str
    assets: model_assets.Assets | None


class Scorer(ABC):
    """Scores images, given what finds the evidence in their tiles.

    Args:
        terms: what a score follows from.
        alpha: level of the verdict.
        limits: what is refused before decoding.
        threads: images on their way at once. An accelerator works on one of them while others are decoded (Pillow
            lets other threads run meanwhile); where the network runs on the CPU, each computes on one core.
        isolated: decode in a process of its own, within the limits of time and memory. Without it a decoder that hangs
            or dies takes this process with it: for images that you trust.

    Raises:
        ValueError: alpha is out of the calibration's reach.
    """

    def __init__(self, terms: Terms, alpha: float, limits: Limits | None, threads: int, isolated: bool = True):
        coarsest = max(terms.calibration.strata, key=lambda stratum: stratum.smallest_p_value)
        if not coarsest.smallest_p_value <= alpha < 1:
            raise ValueError(
                f"alpha={alpha} cannot be told: the p-values of {coarsest.calibration_id}"
                f" reach from 1/{coarsest.scores.size + 1} to 1"
            )
        self.terms = terms
        self.alpha = alpha
        self.limits = limits or Limits()
        self.threads = threads
        self.isolated = isolated
        # PyTorch computes without Python's lock, by default on every core for each thread that asks.
        alone = {"initializer": torch.set_num_threads, "initargs": (1,)} if terms.device == "cpu" else {}
        self._pool = ThreadPoolExecutor(threads, "mdmf-score", **alone) if threads > 1 else None

    @property
    def calibration(self) -> Calibration:
        """Scores of held-out real images."""
        return self.terms.calibration

    @property
    def assets(self) -> model_assets.Assets | None:
        """The detector's checked folder."""
        return self.terms.assets

    @abstractmethod
    def evidence(self, tiles: np.ndarray) -> np.ndarray:
        """Evidence of each patch of one image's tiles.

        Args:
            tiles: (T, 3, H, W) uint8, from `cut_tiles`.

        Returns:
            (T * H/p * W/p,) float32, p the side of a patch.
        """

    def score(self, batch: Iterable[bytes]) -> list[Score | ImageError]:
        """Scores encoded images: a result or a typed error for each, in the order of the batch.

        Raises:
            TypeError: one of them is no bytes, bytearray or memoryview, as a path or an array of pixels is none.
        """
        return list(self.scores(batch))

    def scores(self, batch: Iterable[bytes]) -> Iterator[Score | ImageError]:
        """The same, each as soon as it and those before it are there; the batch is taken whole before the first."""
        contents = list(map(_encoded, batch))
        if self._pool is not None:
            return self._pool.map(self._alone, contents)
        return self._one_by_one(contents)

    def _alone(self, content: bytes) -> Score | ImageError:
        [score] = self._one_by_one([content])
        return score

    def _one_by_one(self, batch: Sequence[bytes]) -> Iterator[Score | ImageError]:
        """While an image is scored, the next ones are decoded in a process of their own."""
        decode = decode_in_turn if self.isolated else _decode_here
        yield from map(self._score, decode(batch, self.terms.geometry, self.limits))

    def _score(self, tiled: TiledImage | ImageError) -> Score | ImageError:
        if isinstance(tiled, ImageError):
            return tiled
        started_ns = time.perf_counter_ns()
        try:
            score = self.score_tiles(tiled)
        except ImageError as error:
            return error.without_frames()
        except torch.cuda.OutOfMemoryError as error:  # of a single tile
            return ImageError(ErrorCode.OUT_OF_MEMORY, f"the network: {error}")
        return replace(score, score_us=(time.perf_counter_ns() - started_ns) // 1000)

    def score_tiles(self, image: TiledImage) -> Score:
        """Scores one image by its tiles. Raises ImageError where no finite score comes out."""
        evidence = self.evidence(image.tiles)
        mmd2 = float(evidence.mean(dtype=np.float64))
        if not np.isfinite(mmd2):
            raise ImageError(ErrorCode.INTERNAL, "the detector gave no finite score for this image")
        stratum = self.calibration.stratum(evidence.size)
        p_value = stratum.p_value(mmd2)
        return Score(
            mmd2=mmd2,
            p_value=p_value,
            verdict=verdict(p_value, self.alpha),
            alpha=self.alpha,
            calibration_id=stratum.calibration_id,
            evidence=evidence,
            plan=image.plan,
            width_px=image.width_px,
            height_px=image.height_px,
            image_format=image.image_format,
            jpeg_quality=image.jpeg_quality,
            decode_us=image.decode_us,
        )


def _encoded(content: bytes) -> bytes:
    """As bytes, so many as `len` says: of anything else a decoder would take one image's for the next one's."""
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"expected encoded images, each the bytes of a file; found {type(content).__name__} among them")
    return bytes(content)


def _decode_here(
    contents: Sequence[bytes], geometry: TileGeometry, limits: Limits
) -> Iterator[TiledImage | ImageError]:
    """`decode_in_turn` in this process, each image when it is asked for."""
    for content in contents:
        try:
            tiled = decode_tiles(content, geometry, limits)
        except ImageError as error:
            tiled = error.without_frames()
        yield tiled
