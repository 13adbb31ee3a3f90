"""Why one image got its verdict: in words, as a map over the image, and its score among the calibration's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdmf_ops.report.heatmap import Patch, colour, covered, full_scale, overlay, strongest_patches, tiles_of
from mdmf_ops.report.svg import Mark, histogram
from mdmf_ops.report.tally import DECLARED

_SHOWN_PATCHES = 5
_BARS = 40
_HALF_PX = 1000
_MIN_HALF_PX = 420
_FOOT_PX = 64
_GAP_PX = 12
_PAPER, _INK, _FRAME = (255, 255, 255), (28, 36, 48), (200, 206, 214)

_MEANING = {
    "likely_ai": "likely AI: p {p} is at most alpha, {alpha:g}. Of real images like the calibration's, at most about"
    " one in {one_in:,.0f} is called so in error.",
    "uncertain": "uncertain: p {p} is over alpha, {alpha:g}, and at most ten times that: unusual for a real image, not"
    " unusual enough.",
    "likely_real": "likely real: p {p} is over ten times alpha, {alpha:g}: nothing was found. That does not make it"
    " authentic.",
}
_EVIDENCE = "A verdict is evidence, not an action: it is never the sole ground for a takedown."


@dataclass(frozen=True)
class Explanation:
    """A row, and what is at hand to explain it with.

    Attributes:
        row: of the output, or made for this.
        image: the pixels that the row is of, RGB and upright; None where they cannot be had.
        calibration: (n,) float32, ascending: scores that stand for the real images which look most generated; None
            where the detector is not at hand.
        reproduced: `same` or `different` where the image was scored again; `gone`, `changed` or `unreadable` where its
            bytes cannot be had, or not be scored on this machine; else `not_tried`.
        notes: what could not be done, and why, a line each.
    """

    row: Mapping[str, Any]
    image: Image.Image | None
    calibration: np.ndarray | None
    reproduced: str
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether there is a score to explain."""
        return self.row["status"] == "scored"

    @property
    def evidence(self) -> np.ndarray:
        """(K,) float32, of every patch."""
        return np.concatenate([tile.evidence.ravel() for tile in tiles_of(self.row)])

    @property
    def full(self) -> float:
        """The evidence of full colour: twice the score that alpha asks for, so that two images compare."""
        threshold = None if self.calibration is None else score_at(self.calibration, self.row["alpha"])
        return 2 * threshold if threshold and threshold > 0 else full_scale(self.evidence)

    @property
    def strongest(self) -> list[Patch]:
        """The few patches with most evidence."""
        return strongest_patches(tiles_of(self.row), _SHOWN_PATCHES)


def decimal(value: float) -> float:
    """The number that was written into a column of float32: what is read of .01 is a little less than .01."""
    return float(str(np.float32(value)))


def score_at(calibration: np.ndarray, p_value: float) -> float | None:
    """The highest calibration score that does not yet give a p-value as small; None where none can be that small."""
    p_value = decimal(p_value)
    at_least = int(np.floor(p_value * (calibration.size + 1) + 1e-9)) - 1
    return float(calibration[calibration.size - 1 - at_least]) if 0 <= at_least < calibration.size else None


def half_of_score(evidence: np.ndarray) -> int | None:
    """How many patches, strongest first, make half of the evidence; None where it comes to nothing or less."""
    total = evidence.sum(dtype=np.float64)
    if total <= 0:
        return None
    summed = np.cumsum(np.sort(evidence.astype(np.float64))[::-1])
    return int(np.searchsorted(summed, total / 2 * (1 - 1e-12))) + 1


def in_words(explanation: Explanation) -> list[str]:
    """The explanation as lines of text."""
    row = explanation.row
    if not explanation.scored:
        return [f"not scored: {row['error_code']}: {row['error_message']}", *explanation.notes]
    p, alpha = f"{row['p_value']:.4g}", decimal(row["alpha"])
    lines = [_MEANING[row["verdict"]].format(p=p, alpha=alpha, one_in=1 / alpha)]
    if explanation.calibration is not None:
        as_high = np.count_nonzero(explanation.calibration >= np.float32(row["mmd2"]))
        lines.append(
            f"{as_high:,} of the {explanation.calibration.size:,} scores that stand for the real images which look"
            f" most generated are as high as this one, {row['mmd2']:.4f}, or higher."
        )
    return [*lines, *_where(explanation), *_declared(row), *explanation.notes, _EVIDENCE]


def _where(explanation: Explanation) -> list[str]:
    row, evidence = explanation.row, explanation.evidence
    side = row["patch_px"]
    lines = [
        f"{evidence.size:,} patches of {side} px, {covered(row, tiles_of(row)):.0%} of the image, were compared: their"
        " mean is the score."
    ]
    if (half := half_of_score(evidence)) is not None:
        lines.append(f"Half of it comes from {half:,} of them, {half / evidence.size:.0%}.")
    places = ", ".join(f"({p.left_px}, {p.top_px}) {p.evidence:.2f}" for p in explanation.strongest)
    return [*lines, f"The strongest, by left and top in px, with their evidence: {places}."]


def _declared(row: Mapping[str, Any]) -> list[str]:
    said = [f"{name} {row[name]}" for name in DECLARED if row.get(name) is not None]
    return [f"The file says of itself, which is no part of the verdict: {', '.join(said)}."] if said else []


def to_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as a script would read it."""
    row = explanation.row
    columns = ("row_id", "run_id", "image_uri", "image_generation", "image_sha256", "status", "error_code")
    columns += ("error_message", "verdict", "p_value", "alpha", "mmd2", "detector_id", "calibration_id", *DECLARED)
    found = {name: row.get(name) for name in columns}
    found |= {"reproduced": explanation.reproduced, "words": in_words(explanation), "notes": list(explanation.notes)}
    if explanation.scored:
        evidence = explanation.evidence
        found["patches"] = {
            "count": evidence.size,
            "half_of_score": half_of_score(evidence),
            "strongest": [asdict(patch) for patch in explanation.strongest],
        }
    if explanation.calibration is not None:
        found["calibration_scores"] = int(explanation.calibration.size)
        found["score_at_alpha"] = score_at(explanation.calibration, row["alpha"])
    return json.loads(json.dumps(found))  # a stray NumPy number is found here and not by a reader


def calibration_chart(explanation: Explanation) -> str:
    """The image's score among those of the real images which look most generated, as an SVG file.

    Needs a scored row and the calibration.
    """
    row, scores = explanation.row, explanation.calibration
    threshold = score_at(scores, row["alpha"])
    marks = [Mark(row["mmd2"], f"this image: p {row['p_value']:.4g}")]
    if threshold is not None:
        marks.append(Mark(threshold, f"alpha {row['alpha']:.4g}: likely AI from here on", dotted=True))
    values = [scores[0], scores[-1], *(mark.value for mark in marks)]
    pad = (max(values) - min(values) or 1) * 0.03
    edges = np.linspace(min(values) - pad, max(values) + pad, _BARS + 1)
    counts = np.histogram(scores, edges)[0].tolist()
    title = (
        f"Score {row['mmd2']:.4f} among the {scores.size:,} that stand for the real images which look most generated:"
        f" p {row['p_value']:.4g}"
    )
    return histogram(
        edges,
        {"calibration": counts},
        title=title,
        x_label="score (squared MMD) of the real images that look most generated",
        marks=marks,
        standalone=True,
    )


def map_picture(explanation: Explanation) -> Image.Image:
    """The image and, beside it, its map over it; the map alone where the image cannot be had. Needs a scored row."""
    row, full = explanation.row, explanation.full
    scale = min(1.0, _HALF_PX / max(row["width_px"], row["height_px"]))
    heat = overlay(row, full, explanation.image, scale)
    draw = ImageDraw.Draw(heat)
    for tile in tiles_of(row):
        left, top, right, bottom = tile.box(scale)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_FRAME)
    for patch in explanation.strongest:
        left, top = patch.left_px * scale, patch.top_px * scale
        side = max(patch.side_px * scale - 1, 0)  # a patch of a wide panorama is less than a pixel
        draw.rectangle((left, top, left + side, top + side), outline=_PAPER, width=2)
    if explanation.image is None:
        return _with_foot([heat], row, full)
    return _with_foot([explanation.image.resize(heat.size, Image.Resampling.LANCZOS), heat], row, full)


def _with_foot(halves: list[Image.Image], row: Mapping[str, Any], full: float) -> Image.Image:
    width, height = halves[0].size
    cell = max(width, _MIN_HALF_PX if len(halves) == 1 else _MIN_HALF_PX // 2)
    paper = Image.new("RGB", (cell * len(halves) + _GAP_PX * (len(halves) - 1), height + _FOOT_PX), _PAPER)
    for place, half in enumerate(halves):
        paper.paste(half, (place * (cell + _GAP_PX) + (cell - width) // 2, 0))
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(15)
    middle = height + _FOOT_PX // 3
    ramp = np.broadcast_to(colour(np.linspace(0, full, 120), full)[None, :, :3], (14, 120, 3))
    paper.paste(Image.fromarray(np.ascontiguousarray(ramp)), (26, middle - 7))
    draw.text((8, middle), "0", _INK, font, anchor="lm")
    draw.text((154, middle), f"{full:.2g} evidence", _INK, font, anchor="lm")
    verdict = row["verdict"].replace("_", " ").replace(" ai", " AI")
    draw.text((paper.width - 8, middle), f"{verdict}, p {row['p_value']:.4g}", _INK, font, anchor="rm")
    seen = f"{covered(row, tiles_of(row)):.0%} of the image was looked at: the framed tiles"
    draw.text((8, height + _FOOT_PX * 3 // 4), seen, _INK, font, anchor="lm")
    return paper
