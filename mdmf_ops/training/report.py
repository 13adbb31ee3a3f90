"""Results of an evaluation as Markdown, CSV and plots, and the model card made of them."""

import csv
import importlib.util
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import model_assets
from mdmf_ops.training.calibrate import AS_FOUND
from mdmf_ops.training.curves import by_treatment
from mdmf_ops.training.evaluate import Results
from mdmf_ops.training.metrics import ALPHAS, LEVELS, clopper_pearson

MODEL_CARD = "MODEL_CARD.md"

_GENERATOR_COLUMNS = ("generator", "images", "AUROC", "AP", "TPR at 1 % FPR", "TPR at 5 % FPR")
_FLAGGED = ("flagged at alpha 1 %", "flagged at alpha 5 %")
_REAL_COLUMNS = ("real source", "images", *_FLAGGED)
_P_VALUE_COLUMNS = (
    "real source",
    "images",
    *(f"p <= {level:g}" for level in LEVELS),
    "KS distance",
    "excess",
    "by chance",
)
_P_VALUES = (
    "Share of the real images whose p-value is at most so much: of uniform p-values it is that number. KS distance: "
    "the largest difference between the two; excess: the largest by which too many p-values are small, which is what "
    "makes false accusations; by chance: the distance that 5 % of uniform samples of this size exceed."
)
_BOTH_OUT = (
    "AUROC where neither the generator nor the real source was trained on: each figure is of a detector of its own."
)
_CURVES = (
    "Means over the generators, against real images that no training saw; every image is treated once more after the "
    "chain above, real ones like generated ones. Flagged: treated real images over the threshold that flags 5 % of "
    "untreated ones."
)
_SPLICES = (
    "A square of another image was pasted into a held-out real one before the chain above. AUROC of the patches' "
    "evidence inside against outside, mean over the images; higher: share of the images whose evidence is higher "
    "inside. The control, real images in real ones, tells how much of that pasted content alone makes."
)
_RANKED = (
    "A generator's images are ranked among {} real ones; TPR: the most that a threshold finds which flags at most 1 or "
    "5 % of these, that is {} or {} of them."
)
_INTERVAL = "95 % confidence interval (Clopper and Pearson 1934, images taken as independent)"

CHAIN = (
    "Every image, real or generated, goes once through one random chain: short side at most 512 px, square crop, JPEG "
    "quality 75, resize by .55 to 1, JPEG (quality 60-100), WebP or nothing."
)
LEFT_OUT = (
    "Each row is of a detector trained anew without that generator or real source, with the same settings. A "
    "generator's images are compared with real ones that were held out of training and of the bank; a real source's "
    "get p-values from the other sources, each scored by a detector that had not seen that one, a generator's from all "
    "of them. Where generators come from one collection, a left out one may still have siblings in training."
)


def tables(results: Results) -> str:
    """Both tables in Markdown, the mean over the generators last."""
    found = [*results.found, results.mean_found()]
    generators = [
        _row((*astuple(ranked), flagged.at_1, flagged.at_5))
        for ranked, flagged in zip([*results.generators, results.means()], found, strict=True)
    ]
    real = [
        [source, str(images), *(f"{_share(rate)} ({_interval(rate, images)})" for rate in rates)]
        for source, images, *rates in map(astuple, results.real_sources)
    ]
    ranking, rates = _table((*_GENERATOR_COLUMNS, *_FLAGGED), generators), _table(_REAL_COLUMNS, real)
    among = max((len(real) for real, _own in results.scores.values()), default=0)  # all alike
    ranked = _RANKED.format(among, *(int(alpha * among) for alpha in ALPHAS))
    return f"{ranking}\n\n{ranked}\n\n{rates}\n\nIn brackets: {_INTERVAL}.\n"


def _interval(rate: float, images: int) -> str:
    low, high = clopper_pearson(rate, images)
    return f"{_share(low)}-{_share(high)}"


def p_value_table(results: Results) -> str:
    """How the real images' p-values lie against the uniform distribution, in Markdown."""
    rows = [
        [r.source, str(r.images), *map(_share, (*r.shares, r.distance, r.too_many, r.by_chance))]
        for r in results.reliability
    ]
    return f"{_table(_P_VALUE_COLUMNS, rows)}\n\n{_P_VALUES}\n"


def both_out_table(results: Results) -> str:
    """AUROC by generator (rows) and real source (columns), with the means of both."""
    names = list(next(iter(results.both_out.values())))
    rows = [(generator, [row[name] for name in names]) for generator, row in results.both_out.items()]
    rows.append(("mean", [sum(values) / len(values) for values in zip(*(row for _, row in rows), strict=True)]))
    cells = [[name, *map(_share, row), _share(sum(row) / len(row))] for name, row in rows]
    return f"{_table(('generator', *names, 'mean'), cells)}\n\n{_BOTH_OUT}\n"


def _treated(results: Results) -> str:
    """The section on what is left at each level of each treatment."""
    [plain] = [point for point in results.curves if point.treatment == "none"]
    points = [plain, *(point for _name, own in by_treatment(results.curves) for point in own)]
    rows = [[p.treatment, f"{p.level:g}", *map(_share, (p.auroc, p.tpr_at_5, p.flagged))] for p in points]
    columns = ("treatment", "level", "AUROC", "TPR at 5 % FPR", "real images flagged")
    return f"## Treated once more\n\n{_table(columns, rows)}\n\n{_CURVES}\n\n"


def splice_table(results: Results) -> str:
    """How well the evidence tells a replaced part, in Markdown."""
    rows = [_row(astuple(one)) for one in results.splices]
    return f"{_table(('pasted from', 'images', 'AUROC of patches', 'higher inside'), rows)}\n\n{_SPLICES}\n"


def write_report(folder: Path, assets: model_assets.Assets, results: Results, left_out: bool) -> str:
    """Writes report.md, metrics.csv and, where matplotlib is there, plots into a folder, and returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    note = LEFT_OUT if left_out else "The detector was trained on none of these generators and real images."
    calibrated = sorted(assets.table("calibration", "sources").keys() & {r.source for r in results.real_sources})
    if calibrated and not left_out:
        note += f" Its p-values were made of images of {', '.join(calibrated)}: how often they are flagged says little."
    parts = [f"# Evaluation of {assets.detector_id}", f"{CHAIN} {note}", tables(results), p_value_table(results)]
    if results.both_out:
        parts += ["## Generator and real source left out together", both_out_table(results)]
    if results.curves:
        parts += [_treated(results)]
    if results.splices:
        parts += ["## Where the evidence lies", splice_table(results)]
    report = "\n\n".join(part.rstrip() for part in [*parts, _plots(folder, results)]) + "\n"
    (folder / "report.md").write_text(report, "utf-8")
    with open(folder / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "source", "images", "metric", "value"])
        writer.writerows(_figures(results))
    return report


def _figures(results: Results) -> Iterator[tuple]:
    """Every figure as a row of metrics.csv: kind, source, images, metric, value."""
    for columns, rows in (
        (_GENERATOR_COLUMNS, results.generators),
        (("generator", "images", *_FLAGGED), results.found),
        (_REAL_COLUMNS, results.real_sources),
    ):
        for source, images, *values in map(astuple, rows):
            yield from ((columns[0], source, images, *pair) for pair in zip(columns[2:], values, strict=True))
    for r in results.reliability:
        values = (*r.shares, r.distance, r.too_many, r.by_chance)
        for metric, value in zip(_P_VALUE_COLUMNS[2:], values, strict=True):
            yield "p-values", r.source, r.images, metric, value
    for generator, row in results.both_out.items():
        yield from (("both left out", generator, "", f"AUROC against {real}", value) for real, value in row.items())
    for point in results.curves:
        for metric in ("auroc", "tpr_at_5", "flagged"):
            yield "curve", f"{point.treatment} {point.level:g}", "", metric, getattr(point, metric)
    for one in results.splices:
        yield "splice", one.donor, one.images, "AUROC of patches", one.auroc
        yield "splice", one.donor, one.images, "higher inside", one.higher


def _plots(folder: Path, results: Results) -> str:
    """Draws what there is, and returns the lines that show it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "Plots: `pip install 'mdmf-ops[evaluate]'`."
    # Here and not above: only who has it draws, and it takes a second to import.
    from mdmf_ops.training import plots

    plots.draw_roc(results.scores, folder / "roc.png")
    plots.draw_p_values(results.p_values, folder / "p_values.png")
    names = ["roc", "p_values"]
    if results.curves:
        plots.draw_curves(results.curves, folder / "curves.png")
        names.append("curves")
    return "\n".join(f"![{name}]({name}.png)" for name in names)


def write_model_card(assets: model_assets.Assets, results: Results) -> None:
    """Writes MODEL_CARD.md into the detector's folder."""
    manifest = assets.manifest
    trained = manifest["training"]["images"]
    calibration = manifest["calibration"]
    seen = "as they are and through" if AS_FOUND in calibration.get("chain", "") else "through"
    counts = {label: ", ".join(f"{name} {n}" for name, n in trained[label].items()) for label in trained}
    card = f"""# Model card: {manifest["name"]}

Written by `mdmf evaluate --leave_one_out --card` for `{assets.detector_id}`.

## What it is for
It tells how far the patches of an image lie from those of real photographs, with a p-value and a map. It is a reason to
look at an image, never the sole ground for an action. "Not detected" does not mean authentic.

## What it has seen
Trained on real images ({counts["real"]}) and generated ones ({counts["generated"]}); calibrated on
{calibration["real_images"]} real images {seen} the chain below, scored by {calibration["scored_by"]}. For kinds of
images that are not among these sources (drawings, scans, screenshots, say) a p-value promises nothing.

## How good it is
{CHAIN} {LEFT_OUT}

{tables(results)}
The second table is the one to read before trusting a verdict: alpha is what was asked, the columns are what a source
got that neither training nor calibration had seen. A p-value is the largest of those among each known source's images,
so that most are flagged far less often than alpha says. What is promised of a source like these is their spread, not
alpha itself; "all" weighs each image alike. The last columns of the first table are what is found at that promise; the
TPR beside them is at a threshold that nobody has, which flags at most 1 or 5 % of just these real images. The mean of
that table hides its worst row. Settings of training and calibration were chosen on tables like these, so they flatter.

{_treated(results) if results.curves else ""}## Where it fails
On generators unlike those above; on small images and after strong compression, blur or noise; on images that were
generated in part, where the score is a mean over all patches. Upscalers, beauty filters and other neural processing of
real photographs leave traces of the same kind.
"""
    (assets.folder / MODEL_CARD).write_text(card, "utf-8")


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _row(values: tuple) -> list[str]:
    return [_share(value) if isinstance(value, float) else str(value) for value in values]


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A source's name may be any: as text of one cell."""
    return " ".join(text.split()).replace("|", r"\|")
