"""Where the evidence lies: images of which a known part was replaced.

A real image that no training saw gets a rectangle of another image; then all of it goes through the evaluation chain.
Evidence must be higher inside than outside. What is pasted differs from its surroundings by its content too: real
images with a rectangle of other real images tell how much of the difference that alone makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.detector.worker import be_one_of_several
from mdmf_ops.images.decode import decode
from mdmf_ops.images.tiles import TilePlan, cut_tiles, plan_tiles
from mdmf_ops.training.augment import EVALUATION_PX, evaluation_chain, random_crop, shrink
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Progress
from mdmf_ops.training.metrics import auroc
from mdmf_ops.training.processes import workers
from mdmf_ops.training.score import evidence_of

CONTROL = "real (control)"
_SHARE = (0.35, 0.65)
"""Of the image's side: how long the side of what is pasted is."""


@dataclass(frozen=True)
class Splice:
    """One spliced image, embedded.

    Attributes:
        seen: (K, f) float16, of `Backbone.seen`.
        inside: (K,) int8: 1 where at least half of a patch was replaced, 0 where nothing was, -1 between.
    """

    seen: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Localisation:
    """How well the evidence of patches tells the replaced part of images.

    Attributes:
        donor: generator of what was pasted, or `CONTROL`.
        images: how many.
        auroc: of the patches inside against those outside, mean over the images.
        higher: share of the images whose evidence is higher inside, on average.
    """

    donor: str
    images: int
    auroc: float
    higher: float


def splice(host: Image.Image, donor: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, tuple[float, ...]]:
    """Pastes a square of one image into another, and sends the result through the evaluation chain.

    Returns:
        The RGB image, and left, top, right and bottom of the replaced part, in px of it.
    """
    host, donor = (random_crop(shrink(image), EVALUATION_PX, rng) for image in (host, donor))
    side_px = min(round(host.width * rng.uniform(*_SHARE)), *donor.size)
    left, top = (int(rng.integers(host.width - side_px + 1)) for _ in range(2))
    host = host.copy()
    host.paste(random_crop(donor, side_px, rng), (left, top))
    image = evaluation_chain(host, rng)
    scale = image.width / host.width
    return image, tuple(scale * edge for edge in (left, top, left + side_px, top + side_px))


def replaced(plan: TilePlan, box: tuple[float, ...]) -> np.ndarray:
    """(K,) int8 of all patches of a plan, in their order: see `Splice.inside`."""
    left, top, right, bottom = box
    tops = np.array([[origin[0] + row * plan.patch_px for row in range(plan.grid_rows)] for origin in plan.origins])
    lefts = np.array([[origin[1] + col * plan.patch_px for col in range(plan.grid_cols)] for origin in plan.origins])
    high = (np.minimum(tops + plan.patch_px, bottom) - np.maximum(tops, top)).clip(0)
    wide = (np.minimum(lefts + plan.patch_px, right) - np.maximum(lefts, left)).clip(0)
    share = (high[:, :, None] * wide[:, None, :]).reshape(-1) / plan.patch_px**2
    return np.where(share >= 0.5, 1, np.where(share > 0, -1, 0)).astype(np.int8)


def make_splices(
    hosts: Sequence[LabelledImage],
    donors: Sequence[LabelledImage],
    count: int,
    backbone: Backbone,
    seed: int,
    progress: Progress,
) -> list[Splice]:
    """`count` splices of random hosts with random donors, each drawn from (seed, its number)."""
    made = []
    with workers(_begin, hosts, donors, backbone, seed) as pool:
        for one in pool.map(_embed, range(count)):
            made.append(one)
            progress(len(made), count)
    return made


def _begin(*shared: Any) -> None:
    """Keeps in a worker process what every splice needs."""
    global _shared
    _shared = shared
    be_one_of_several()


@torch.inference_mode()
def _embed(number: int) -> Splice:
    hosts, donors, backbone, seed = _shared
    rng = np.random.default_rng([seed, number])
    host = hosts[rng.integers(len(hosts))]
    others = [image for image in donors if image.path != host.path]
    donor = others[rng.integers(len(others))]
    image, box = splice(*(decode(chosen.path.read_bytes()).image for chosen in (host, donor)), rng)
    plan = plan_tiles(image.height, image.width, backbone.geometry)
    return Splice(backbone.seen(cut_tiles(image, plan)).half().numpy(), replaced(plan, box))


def localise(
    donor: str, splices: Sequence[Splice], backbone: Backbone, signature: Signature, bank: Bank
) -> Localisation:
    """Measures one donor's splices; those without patches of both kinds do not count."""
    areas, higher = [], []
    for one in splices:
        patches = backbone.in_context(torch.from_numpy(one.seen).float()).numpy()
        evidence = evidence_of(patches, signature, bank)
        within, outside = evidence[one.inside == 1], evidence[one.inside == 0]
        if len(within) and len(outside):
            areas.append(auroc(outside, within))
            higher.append(within.mean() > outside.mean())
    if not areas:
        raise ValueError(f"{donor}: no splice has patches inside and outside of what was replaced")
    return Localisation(donor, len(areas), float(np.mean(areas)), float(np.mean(higher)))
