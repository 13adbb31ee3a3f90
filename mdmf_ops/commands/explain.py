"""Carries out `mdmf explain`."""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import Image, ImageRef, split_member
from mdmf_ops.beam.load import local_copy
from mdmf_ops.beam.reread import reread
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.runs import find_rows
from mdmf_ops.beam.score import make_row
from mdmf_ops.beam.sources import complete, list_images
from mdmf_ops.beam.storage import absolute, store_errors
from mdmf_ops.cli import EXIT_FAILED, EXIT_OK, UsageError, complain
from mdmf_ops.commands.committed import committed_runs
from mdmf_ops.commands.terminal import console, plain, progress_bar
from mdmf_ops.defaults import DEFAULT_ALPHA
from mdmf_ops.detector import Detector, Score
from mdmf_ops.detector.calibration import verdict
from mdmf_ops.detector.precision import TOLERANCE, spread
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.whole import decode_whole
from mdmf_ops.report.explain import Explanation, calibration_chart, decimal, in_words, map_picture, to_json
from mdmf_ops.report.heatmap import tiles_of
from mdmf_ops.report.page import row_key
from mdmf_ops.text import told
from model_assets import AssetError

_TOLERANCE = 1e-3
"""Of a score on another machine: the order of sums differs, and the last digits with it."""
_PATCH_TOLERANCE = 0.05
"""Of one patch's evidence, whose differences the mean evens out; patches of one image lie some 0.2 from each other."""

_PATCH_MOVES = 5
"""So many times as far as the score may one patch's evidence be moved by bfloat16."""

_WHERE_IT_LIES = ("row_id", "run_id", "scanned_at", "image_uri", "image_generation", "image_sha256", "status")
"""What is read of every row that has the id: an image that everybody uses has a hundred thousand, with a map each."""

_MOST_COPIES = 100
"""Of an image that are tried, newest first: of a hundred thousand that are gone, all would take hours in a bucket."""

_LOST = {
    ErrorCode.NOT_FOUND: ("gone", "The image is gone"),
    ErrorCode.CHANGED: ("changed", "The image was changed"),
}

_OF_THIS_MACHINE = (ErrorCode.TIMEOUT, ErrorCode.OUT_OF_MEMORY, ErrorCode.DECODER_CRASHED)
"""Why an image that was scored once may fail where there is less time or memory: no word against its row."""


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    of_row = bool(arguments.output or arguments.row_id)
    if of_row == bool(arguments.image) or bool(arguments.output) != bool(arguments.row_id):
        raise UsageError("name either an IMAGE, or --output DIR and --row_id ID")
    if arguments.run_id and not of_row:
        raise UsageError("--run_id: of a row: it needs --output DIR and --row_id ID")
    if of_row and arguments.alpha is not None:
        raise UsageError("--alpha: a row has its own; leave it out, or name the IMAGE")
    torch.set_num_threads(1)  # two threads that contend for a core are far slower than one
    try:
        with progress_bar("reading and scoring"):
            explanation = _explain_row(arguments) if of_row else _explain_image(arguments)
        pictures = _save(explanation, arguments.save) if explanation.scored else {}
    except (OSError, ValueError, AssetError) as error:
        raise UsageError(str(error)) from error
    except ImageError as error:
        complain(told(f"mdmf explain: {arguments.image}: {error}"))
        return EXIT_FAILED
    if arguments.json:
        print(json.dumps(to_json(explanation) | {"pictures": pictures}, indent=2))
    else:
        _show(explanation, pictures)
    return EXIT_OK if explanation.reproduced in ("same", "not_tried") else EXIT_FAILED


def _explain_image(arguments: argparse.Namespace) -> Explanation:
    """Scores an image now. Raises ImageError where it cannot be scored."""
    source = absolute(arguments.image)
    in_shard = split_member(source)[1] is not None
    refs = [complete(ImageRef(source))] if in_shard else list(islice(list_images(source), 2))
    if len(refs) > 1:
        raise UsageError(f"{arguments.image}: more than one image: name one; mdmf scan takes folders")
    with local_copy(arguments.assets) as folder:
        alpha = DEFAULT_ALPHA if arguments.alpha is None else arguments.alpha
        detector = Detector.load(folder, alpha=alpha, device=arguments.device)
    image = fetch_image(refs[0], detector.limits)
    result = image.error or detector.score([image.content])[0]
    if isinstance(result, ImageError):
        raise result
    row = make_row(image, result, detector, Run.start(".", "explain"))
    return Explanation(row, decode_whole(image.content, detector.limits), _comparable(detector, row), "not_tried")


def _comparable(detector: Detector, row: dict[str, Any]) -> np.ndarray:
    """(n,) float32: the calibration's scores of images of the row's size. Raises ValueError for a damaged map."""
    return detector.calibration.stratum(sum(tile.evidence.size for tile in tiles_of(row))).scores


def _explain_row(arguments: argparse.Namespace) -> Explanation:
    output, manifests = committed_runs(arguments.output, arguments.run_id)
    rows = list(find_rows(output, [arguments.row_id], manifests, _WHERE_IT_LIES))
    if not rows:
        where = f"row of run {arguments.run_id}" if arguments.run_id else f"committed run of {output}"
        raise UsageError(f"--row_id {arguments.row_id}: no {where} has it; mdmf latest --json shows ids")
    rows.sort(key=lambda row: row["scanned_at"], reverse=True)
    # One that failed says nothing of the verdict that another has.
    scored = [row for row in rows if row["status"] == "scored"]
    place, image = _readable(scored[:_MOST_COPIES]) if scored else (rows[0], None)
    of_its_run = [manifest for manifest in manifests if manifest["run_id"] == place["run_id"]]
    whole = find_rows(output, [arguments.row_id], of_its_run)
    row = next(row for row in whole if row_key(row) == row_key(place))
    pixels, calibration, reproduced, notes = None, None, "not_tried", []
    if len(rows) > 1:
        shown = f"{row['image_uri']} in run {row['run_id']}"
        notes.append(f"{len(rows)} rows have this id, of the same bytes and detector; this is that of {shown}.")
    if image is not None:
        detector, why_not = _detector_of(row, manifests, arguments)
        if detector:
            calibration = _comparable(detector, row)
        else:
            notes.append(f"Not scored again, and not shown among the calibration's scores: {why_not}.")
        try:
            if image.error is not None:
                raise image.error
            pixels = decode_whole(image.content, Limits())
        except ImageError as error:  # of a row that was scored with wider limits too
            reproduced, what = _LOST.get(error.code, ("unreadable", "The image cannot be read"))
            generation = "" if image.ref.generation is None else f" (generation {image.ref.generation})"
            notes.append(f"{what}: {image.ref.uri}{generation}: {error.message}. What is shown is what the row holds.")
        else:
            if detector:
                reproduced, note = _score_again(row, image.content, detector)
                notes.append(note)
    return Explanation(row, pixels, calibration, reproduced, tuple(notes))


def _readable(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], Image]:
    """The first row whose image can be read again, else the first one; and what came of reading it."""
    first = None
    for row in rows:
        image = reread(row, Limits())
        if image.error is None:
            return row, image
        first = first or (row, image)
    return first


def _detector_of(
    row: dict[str, Any], manifests: list[dict[str, Any]], arguments: argparse.Namespace
) -> tuple[Detector | None, str]:
    """The detector that a row names, or why it is not at hand."""
    recorded = {manifest["run_id"]: manifest.get("options", {}).get("assets") for manifest in manifests}
    source = arguments.assets or recorded.get(row["run_id"])
    mend = f"name the folder of {row['detector_id']} with --assets"
    try:
        with local_copy(source) as folder:
            # A p-value does not hang on alpha: what is asked for need only be within every calibration's reach.
            detector = Detector.load(folder, alpha=0.5, device=arguments.device)
    except (OSError, AssetError, *store_errors(source or "")) as error:
        if arguments.assets:
            raise
        return None, f"{error}; {mend}"
    found = detector.assets.detector_id
    if found != row["detector_id"]:
        return None, f"{source or 'the embedded detector'} is {found}; {mend}"
    return detector, ""


def _score_again(row: dict[str, Any], content: bytes, detector: Detector) -> tuple[str, str]:
    [result] = detector.score([content])
    if isinstance(result, ImageError):
        if result.code in _OF_THIS_MACHINE:
            return "unreadable", f"Not scored again here: {result}. That says nothing of the row."
        return "different", f"Scored again, it fails, which the row did not: {result}."
    wrong = "; ".join(_differences(row, result, detector))
    if not wrong:
        says = "as the row says" if row["precision"] != "bfloat16" else f"for the row's {row['mmd2']:.4f} in bfloat16"
        return "same", f"Read and scored again: {result.mmd2:.4f}, {says}; p-value, verdict and map stand too."
    return "different", f"Read and scored again, the row does not reproduce: {wrong}."


def _differences(row: dict[str, Any], score: Score, detector: Detector) -> Iterator[str]:
    """What a row says and the score of its very bytes does not, a field each."""
    # These follow from the row's own score: another within the tolerance may give a p-value beside it.
    p_value = detector.calibration.stratum(score.evidence.size).p_value(row["mmd2"])
    said = verdict(p_value, decimal(row["alpha"])).value
    moved = TOLERANCE * spread(detector.terms) if row["precision"] == "bfloat16" else 0.0
    allowed_patch = max(_PATCH_TOLERANCE, _PATCH_MOVES * moved)
    if not abs(score.mmd2 - row["mmd2"]) <= max(_TOLERANCE, moved):
        yield f"mmd2 is {score.mmd2:.4f}, where the row says {row['mmd2']:.4f}"
    if np.float32(p_value) != np.float32(row["p_value"]):
        yield f"p_value is {p_value:.4g}, where the row says {row['p_value']:.4g}"
    if said != row["verdict"]:
        yield f"verdict is {said}, where the row says {row['verdict']}"
    for name in ("width_px", "height_px"):
        if getattr(score, name) != row[name]:
            yield f"{name} is {getattr(score, name)}, where the row says {row[name]}"
    plan = score.plan
    places = [(top, left, plan.patch_px, plan.grid_rows, plan.grid_cols) for top, left in plan.origins]
    if places != [(tile.top_px, tile.left_px, tile.patch_px, *tile.evidence.shape) for tile in tiles_of(row)]:
        yield "tiles lie elsewhere than in the row"
    elif not np.allclose(score.evidence, row["patch_evidence"], rtol=0, atol=allowed_patch):
        yield "patch_evidence is another one than the row's"


def _save(explanation: Explanation, folder: Path) -> dict[str, str]:
    """Writes the pictures, named by the image and the row; returns their paths."""
    row = explanation.row
    stem = re.sub(r"[^A-Za-z0-9-]+", "_", Path(row["image_uri"].rpartition("/")[2]).stem)[:60] or "image"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stem}-{row['row_id'][:8]}"
    pictures = {"map": folder / f"{name}-map.png"}
    map_picture(explanation).save(pictures["map"])
    if explanation.calibration is not None:
        pictures["p_value"] = folder / f"{name}-p_value.svg"
        pictures["p_value"].write_text(calibration_chart(explanation), "utf-8")
    return {kind: str(path) for kind, path in pictures.items()}


def _show(explanation: Explanation, pictures: dict[str, str]) -> None:
    screen = console()
    screen.print(f"[bold]{plain(explanation.row['image_uri'])}[/]", soft_wrap=True)
    for line in in_words(explanation):
        screen.print(plain(line), soft_wrap=True)
    for kind, path in pictures.items():
        screen.print(f"{kind:8} {plain(path)}", soft_wrap=True)
