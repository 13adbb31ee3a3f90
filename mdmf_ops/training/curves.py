"""How far a detector holds when images are treated once more: saved again, blurred, made noisy, resized."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mdmf_ops.training import augment
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.metrics import compare

POINTS = {
    "JPEG quality": (100, 90, 80, 70, 60, 50),
    "blur, sigma in px": (0.5, 1.0, 2.0, 3.0, 5.0),
    "noise, sigma of full scale": (0.02, 0.05, 0.1, 0.25),
    "resize": (0.5, 0.75, 1.5, 2.0),
}
"""Levels of each treatment, beside the image as the evaluation chain leaves it."""


@dataclass(frozen=True)
class Treated:
    """The evaluation chain, and one treatment after it, the same for real and generated images.

    An image keeps its draws of the chain at every level: only the treatment differs.
    """

    treatment: str
    level: float

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return treat(augment.evaluation_chain(image, rng), self.treatment, self.level, rng)


def treat(image: Image.Image, treatment: str, level: float, rng: np.random.Generator) -> Image.Image:
    """Treats an RGB image; `treatment` and `level` as in `POINTS`."""
    if treatment == "JPEG quality":
        return augment.recode(image, "JPEG", round(level))
    if treatment == "blur, sigma in px":
        return image.filter(ImageFilter.GaussianBlur(level))
    if treatment == "noise, sigma of full scale":
        return augment.add_noise(image, 255 * level, rng)
    if treatment == "resize":
        size = tuple(max(round(side * level), 64) for side in image.size)
        return image.resize(size, Image.Resampling.BICUBIC)
    raise ValueError(f"no treatment {treatment!r}; there are {', '.join(POINTS)}")


def chains() -> list[str | Treated]:
    """The plain evaluation chain, and then every point of every curve."""
    return ["evaluation_chain", *(Treated(name, level) for name, levels in POINTS.items() for level in levels)]


def subset(images: Sequence[LabelledImage], eligible: Callable[[LabelledImage], bool], count: int) -> list[int]:
    """Indices of at most `count` eligible images of each source, drawn once and for all."""
    order = np.random.default_rng(0).permutation(len(images))
    taken: dict[str, int] = {}
    chosen = []
    for i in order:
        source = images[i].source
        if eligible(images[i]) and taken.get(source, 0) < count:
            taken[source] = taken.get(source, 0) + 1
            chosen.append(int(i))
    return sorted(chosen)


@dataclass(frozen=True)
class CurvePoint:
    """What is left at one level of a treatment. All rates are in [0, 1].

    Attributes:
        treatment, level: as in `POINTS`; `none` and 0 for the plain chain.
        auroc, tpr_at_5: means over the generators; real images are treated alike.
        flagged: share of treated real images over the threshold that flags 5 % of the plain ones.
    """

    treatment: str
    level: float
    auroc: float
    tpr_at_5: float
    flagged: float


def curve_points(scores: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> list[CurvePoint]:
    """Points of all curves.

    Args:
        scores: of each generator its name, and (chains, n) scores of real images and of its own, by `chains()`.
    """
    points = []
    for row, chain in enumerate(chains()):
        results = [compare(name, real[row], own[row]) for name, real, own in scores]
        flagged = [(real[row] > np.quantile(real[0], 0.95)).mean() for _name, real, _own in scores]
        treatment, level = (chain.treatment, chain.level) if isinstance(chain, Treated) else ("none", 0.0)
        points.append(
            CurvePoint(
                treatment,
                level,
                float(np.mean([r.auroc for r in results])),
                float(np.mean([r.tpr_at_5 for r in results])),
                float(np.mean(flagged)),
            )
        )
    return points


def by_treatment(points: Sequence[CurvePoint]) -> Iterator[tuple[str, list[CurvePoint]]]:
    """Each treatment with its points."""
    for name in POINTS:
        yield name, [point for point in points if point.treatment == name]
