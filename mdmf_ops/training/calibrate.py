"""A trained detector and real images it has not seen, to a calibrated one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import model_assets
from mdmf_ops.detector.calibration import Calibration, Stratum
from mdmf_ops.detector.detector import CALIBRATION_FILE, load_bank, load_model
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.data import LabelledImage, unseen_real
from mdmf_ops.training.features import Progress, extract
from mdmf_ops.training.folds import leave_out
from mdmf_ops.training.score import score_features
from mdmf_ops.training.train import training_images

SEED = 1_000_003
"""Of the chain that calibration and evaluation images go through; training uses others."""

CALIBRATION_CHAIN = "evaluation_chain"
"""Each image counts once, resized and encoded again as on the web. Of other copies of it, as it was found or small and
worn, no more are flagged; counted as well, they spread a source's scores and hide half of the generated images."""

AS_FOUND = "none"
"""The chain that leaves an image as a scan will find it. `held_out` images go through both, and what looks more
generated counts: of photographs that were enlarged to 1,100 px the other chain undoes that, and by it alone as many as
.10 and .32 were flagged at alpha .01 and .05."""

SCORED_BY_ITSELF = "the detector, on images it was not trained on"
SCORED_BY_OTHERS = "detectors that never saw the image's source"

STRATA_MIN_PATCHES = (0, 64, 256)
"""Where strata begin: with patches of 32 px, the latter two are squares of 256 and of 512 px."""

MIN_STRATUM_SCORES = 1000
"""A stratum of fewer scores is joined to a neighbour: of a part of the sources' images less can be told than of all."""

SOURCE_QUANTILES = (100, 1000)
"""Fewest and most of each source's scores in a stratum: they stand for the source, whether it has fifty images or
thousands. In between there are as many as the largest source has images: no p-value is finer than these tell."""

FEW_SCORES = 50
"""Sources of fewer scores in a stratum, after one chain, count as one there: a handful says little of high quantiles.
One that is harder than those it counts with is flagged more often than alpha says."""


def stratify(name: str, scores: np.ndarray, patches: np.ndarray, sources: np.ndarray) -> Calibration:
    """Scores as strata by size, in which a p-value is the largest of those among each source's own scores.

    A new image comes from a source as unlike the known ones as they are among themselves: what must be exchangeable
    are sources, not images (Dunn et al. 2022, arXiv 1809.07441). Were they averaged, a source of polished photographs
    would be flagged several times as often as alpha says, and pay for those that never are. The largest holds for
    every known source of FEW_SCORES or more at once, and for the most of new ones.

    Args:
        name: what every stratum's id begins with; its least number of patches and of scored images follow.
        scores, patches: (n,) of each scored image, or (chains, n): after another chain a source counts as another one.
        sources: (n,).
    """
    scores, patches = np.atleast_2d(scores, patches)
    bounds = list(STRATA_MIN_PATCHES)
    while True:
        of_score = np.digitize(patches, bounds) - 1
        counts = np.bincount(of_score.ravel(), minlength=len(bounds))
        poorest = int(counts.argmin())
        if len(bounds) == 1 or counts[poorest] >= MIN_STRATUM_SCORES:
            break
        del bounds[max(poorest, 1)]
    strata = []
    for i, (least, count) in enumerate(zip(bounds, counts, strict=True)):
        own = [each for row, here in zip(scores, of_score == i, strict=True) for each in _own(row[here], sources[here])]
        strata.append(Stratum(f"{name}-from{least}-n{count}", least, _of_the_hardest(own)))
    return Calibration(tuple(strata))


def _own(scores: np.ndarray, sources: np.ndarray) -> list[np.ndarray]:
    """The scores of each source, those of few together."""
    names, of_score, counts = np.unique(sources, return_inverse=True, return_counts=True)
    few = counts < FEW_SCORES
    if 0 < counts[few].sum() < FEW_SCORES and not few.all():
        few[np.where(few, len(scores), counts).argmin()] = True  # with the smallest of the others they are enough
    of_score = np.where(few[of_score], len(names), of_score)
    return [scores[of_score == i] for i in np.unique(of_score)]


def _of_the_hardest(own: Sequence[np.ndarray]) -> np.ndarray:
    """Scores among which a p-value is the largest of those among each source's own; which source gives it may differ.

    Returns:
        (n,) float, n within SOURCE_QUANTILES.
    """
    quantiles = int(np.clip(max(map(len, own)), *SOURCE_QUANTILES))
    levels = (np.arange(quantiles) + 0.5) / quantiles
    own = [np.quantile(each, levels, method="hazen") for each in own]
    grid = np.unique(own)
    as_high = np.max([quantiles - np.searchsorted(each, grid) for each in own], axis=0)
    return np.repeat(grid, as_high - np.append(as_high[1:], 0))


def _check_same_training(known: Mapping[str, int], images: Sequence[LabelledImage]) -> None:
    """Raises ValueError where a training on these images would not see as many of each source as the detector's did."""
    others = {image.source for image in images} - known.keys()
    found = Counter(images[i].source for i in training_images(images, others))
    for name, count in known.items():
        if found[name] != count:
            raise ValueError(
                f"{name}: the detector was trained on {count} images of it, and would be on {found[name]} of those"
                " given here; calibration needs the images of the training, and its --pairs where it had any;"
                " --held_out calibrates on images it was not trained on"
            )


def calibrate(
    folder: Path, images: Sequence[LabelledImage], work: Path, progress: Progress, held_out: bool = False
) -> model_assets.Assets:
    """Scores real images by detectors that never saw their source, and writes the scores into the detector's folder.

    Args:
        folder: of a trained detector; it gets a new id.
        images: labelled, the ones it was trained on among them. Real sources that it was not trained on are scored by
            the detector itself.
        work: where computed features are kept.
        held_out: instead, score by the detector itself the images that it was not trained on: what its training held
            out, and all of other sources, both as they are and after the chain. It costs no further training, and
            promises nothing for sources unlike those.

    Raises:
        ValueError: too few images for a p-value of .01, too few sources to leave one out, or others than were trained
            on.
    """
    assets = model_assets.read_assets(folder)
    backbone, signature = load_model(assets)
    bank = load_bank(assets)
    seen = assets.table("training", "images", "real")
    known = {**seen, **assets.table("training", "images", "generated")}
    given = [image for image in images if not image.generated]
    real = [image for image in given if not held_out or unseen_real(image, seen)]
    if len(real) < 100:
        trained = ", ".join(sorted({image.source for image in given} & seen.keys()) if held_out else ())
        why = f" of {len(given)}, since most of {trained} count as trained on, by that name," if trained else ""
        raise ValueError(f"{len(real)} real images{why} are left: 100 at least, for a p-value of .01 to exist")
    if not held_out:
        if len(seen) < 2:
            raise ValueError(
                "calibration trains again without each real source, and the detector was trained on fewer than two;"
                " --held_out calibrates on images it was not trained on"
            )
        _check_same_training(known, images)
    chains = (CALIBRATION_CHAIN, AS_FOUND) if held_out else (CALIBRATION_CHAIN,)
    tests = [extract(real, backbone, chain, 1, SEED, work, progress) for chain in chains]
    scores = np.full((len(chains), len(real)), np.nan, np.float32)
    rest = [i for i, image in enumerate(real) if held_out or image.source not in seen]
    scores[:, rest] = [score_features(test, rest, signature, bank) for test in tests]
    if not held_out:
        config = TrainingConfig.from_dict(assets.table("training", "config"))
        again = [image for image in images if image.source in known]
        features = extract(again, backbone, "training_chain", config.copies, config.seed, work, progress)
        for fold in leave_out(list(seen), again, features, config, real, tests, progress):
            scores[:, fold.own] = fold.own_scores
    sources = [image.source for image in real]
    kind = "held-out" if held_out else "sources-out"
    calibration = stratify(kind, scores, np.stack([test.counts() for test in tests]), np.array(sources))
    rewritten = ("detector_id", "format", "name", "files", "calibration")
    kept = {key: value for key, value in assets.manifest.items() if key not in rewritten}
    files = sorted({*assets.manifest["files"]} - {CALIBRATION_FILE})
    # The manifest lists no calibration while one is written: whenever this ends, the folder is a detector.
    model_assets.write_assets(folder, assets.manifest["name"], files, kept)
    calibration.save(folder / CALIBRATION_FILE)
    description = {
        "scored_by": SCORED_BY_ITSELF if held_out else SCORED_BY_OTHERS,
        "real_images": len(real),
        "sources": dict(sorted(Counter(sources).items())),
        "chain": ", ".join(chains),
        "strata": {stratum.calibration_id: stratum.min_patches for stratum in calibration.strata},
    }
    listed = [*files, CALIBRATION_FILE]
    return model_assets.write_assets(folder, assets.manifest["name"], listed, {**kept, "calibration": description})
