"""`make_page`: a tally to one HTML file that needs neither a server nor a network.

All that comes from rows goes into one JSON island, from which the page's script makes text nodes: a stranger's text is
never markup. The page's policy admits its own script and style, by their hashes, and images that it carries itself.
"""

import base64
import datetime
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

import mdmf_ops
from mdmf_ops.report.heatmap import Tile, covered, full_scale, strongest_patches, tile_png, tiles_of
from mdmf_ops.report.strata import KINDS, MIN_IMAGES, WARN_TIMES, folder_of, image_strata
from mdmf_ops.report.svg import STYLE
from mdmf_ops.report.tally import DECLARED, SECTIONS, Row, Tally
from mdmf_ops.schema import VERDICTS
from mdmf_ops.text import one_line

_SCRIPTS = ("dom.js", "summary.js", "gallery.js", "list.js")
_MAX_RUNS = 20
_MAX_URI_CHARS = 2000


@dataclass(frozen=True)
class Report:
    """What a page is made of.

    Attributes:
        output: the dataset, absolute path or URI.
        manifests: of the runs that were read, oldest first.
        tally: of their rows.
        full_rows: rows of the gallery with all their columns, by `row_key`.
        thumbnails: by `row_key`, a small JPEG as a data URI, or why there is none; None where none was asked for.
    """

    output: str
    manifests: Sequence[Mapping[str, Any]]
    tally: Tally
    full_rows: Mapping[tuple, Row]
    thumbnails: Mapping[tuple, str] | None = None
    made_at: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))


def row_key(row: Row) -> tuple:
    """What tells a row from every other one of an output."""
    return (row["row_id"], row["run_id"], row["image_uri"], row["image_generation"], row["scanned_at"])


def summary(report: Report) -> dict[str, Any]:
    """Counts, strata and warnings, as a script would read them."""
    tally, overall = report.tally, report.tally.strata.overall()
    scored = overall.scored
    strata = [overall, *tally.strata.strata()]
    return {
        "output": report.output,
        "made_at": report.made_at.isoformat(timespec="seconds"),
        "version": mdmf_ops.__version__,
        "images": scored + overall.failed,
        "scored": scored,
        **{name: tally.outcomes[name] for name in (*VERDICTS, "failed")},
        "runs": [_run(manifest) for manifest in report.manifests[::-1][:_MAX_RUNS]],
        "runs_in_all": len(report.manifests),
        "detectors": [
            {"detector_id": detector_id, "alpha": _short(alpha), **counts}
            for (detector_id, alpha), counts in sorted(tally.detectors.items(), key=lambda item: -item[1].total())
        ],
        "strata": [asdict(s) | {"rate": s.rate, "interval": s.interval, "warned": s.warned} for s in strata],
        "warn_times": WARN_TIMES,
        "min_images": MIN_IMAGES,
        "errors": [
            {
                "code": code,
                "failed": failed,
                "examples": [
                    {"uri": one_line(row["image_uri"], _MAX_URI_CHARS), "message": row["error_message"]}
                    for row in tally.examples[code]
                ],
            }
            for code, failed in tally.errors.most_common()
        ],
        "declared": tally.most_declared(),
    }


def _run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    status = manifest["counts"]["status"]
    options = [
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in manifest.get("options", {}).items()
        if value not in (None, [], "")
    ]
    return {
        **{key: manifest.get(key) for key in ("run_id", "started_at", "finished_at", "inputs", "skipped")},
        "scored": status.get("scored", 0),
        "failed": status.get("failed", 0),
        "options": ", ".join(options)[:_MAX_URI_CHARS],
    }


def make_page(report: Report) -> str:
    """The page.

    Returns:
        A whole HTML document.
    """
    data = summary(report) | {"gallery": _gallery(report), "list": _list(report)}
    css, script = _asset("page.css") + STYLE, "".join(map(_asset, _SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(css)}'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    charts = {"p-values": report.tally.p_value_chart()} if data["scored"] else {}
    charts |= {f"Scores under {name}": chart for name, chart in report.tally.score_charts().items()}
    return Template(_asset("page.html")).substitute(
        policy=policy,
        title=html.escape(one_line(f"Report of {report.output}", _MAX_URI_CHARS)),
        css=css,
        charts="".join(_figure(name, chart) for name, chart in charts.items()),
        data=_island(data),
        script=script,
    )


def _figure(name: str, chart: str) -> str:
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{chart}</figure>"


def _island(data: Any) -> str:
    """JSON that no text in it can end: the parser of HTML sees no `<` and no `&`."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return files("mdmf_ops.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _short(value: float | None, digits: int = 5) -> float | None:
    """A float32 without the tail that JSON would show."""
    return None if value is None else float(f"{value:.{digits}g}")


# The gallery.


def _gallery(report: Report) -> dict[str, Any]:
    maps: dict[tuple, list[Tile]] = {}
    for key, row in report.full_rows.items():
        try:
            maps[key] = tiles_of(row)
        except ValueError:
            maps[key] = []  # a damaged map costs the image its map, and no other image anything
    evidence = [tile.evidence.ravel() for tiles in maps.values() for tile in tiles]
    full = full_scale(np.concatenate(evidence)) if evidence else 1.0
    thumbnails = report.thumbnails or {}
    cards = {key: _card(row, maps[key], full, thumbnails.get(key, "")) for key, row in report.full_rows.items()}
    places = {key: place for place, key in enumerate(cards)}
    return {
        "full_scale": _short(full, 2),
        "thumbnails": report.thumbnails is not None,
        "cards": list(cards.values()),
        "sections": [
            {"name": name, "about": about, "cards": [places[row_key(row)] for row in rows if row_key(row) in places]}
            for name, about, rows in _sections(report.tally)
        ],
    }


def _sections(tally: Tally) -> list[tuple[str, str, list[Row]]]:
    """Title, explanation and rows of each part of the gallery."""
    strongest = tally.sections["strongest"].rows()
    if len(strongest) == sum(tally.outcomes[verdict] for verdict in VERDICTS):
        return [("Every image", "Smallest p-value first.", strongest)]
    return [(name.capitalize(), about, tally.sections[name].rows()) for name, (_key, about) in SECTIONS.items()]


def _card(row: Row, tiles: list[Tile], full: float, thumbnail: str) -> dict[str, Any]:
    width, height = row["width_px"], row["height_px"]
    return {
        "row_id": row["row_id"],
        "run_id": row["run_id"],
        "uri": one_line(row["image_uri"], _MAX_URI_CHARS),
        "verdict": row["verdict"],
        "p": _short(row["p_value"]),
        "score": _short(row["mmd2"]),
        "alpha": _short(row["alpha"]),
        "width": width,
        "height": height,
        "thumbnail": thumbnail if thumbnail.startswith("data:") else "",
        "no_thumbnail": "" if thumbnail.startswith("data:") else thumbnail,
        "tiles": [
            {
                "png": tile_png(tile, full),
                "left": tile.left_px / width,
                "top": tile.top_px / height,
                "width": tile.width_px / width,
                "height": tile.height_px / height,
            }
            for tile in tiles
        ],
        "patches": sum(tile.evidence.size for tile in tiles),
        "covered": _short(covered(row, tiles)) if tiles else None,
        "strongest": [asdict(patch) | {"evidence": _short(patch.evidence, 3)} for patch in strongest_patches(tiles, 5)],
        "declared": {name: row[name] for name in DECLARED if row.get(name) is not None},
        "facts": _facts(row),
    }


def _facts(row: Row) -> dict[str, str]:
    quality = row["jpeg_quality"]
    size = f"{row['width_px']} x {row['height_px']} px, {row['image_bytes']:,} bytes"
    facts = {
        "image": f"{row['image_format']}, {size}" + (f", JPEG quality {quality}" if quality is not None else ""),
        "generation": row["image_generation"],
        "sha256": row["image_sha256"],
        "scored": f"{row['scanned_at']:%Y-%m-%d %H:%M:%S} UTC in run {row['run_id']}",
        "detector": f"{row['detector_id']}, calibration {row['calibration_id']}",
        **{f"attribute {name}": value for name, value in dict(row["attributes"] or ()).items()},
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


# The list.


def _list(report: Report) -> dict[str, Any]:
    """Listed rows by column, words as places in tables: ten thousand rows are then a megabyte or two."""
    rows = report.tally.list.rows()
    sources = report.tally.strata.sources()
    places = {key: place for place, key in enumerate(report.full_rows)}
    strata = [image_strata(row) | {"source": sources.name(folder_of(row["image_uri"]))} for row in rows]
    return {
        "listed": len(rows),
        "row_id": [row["row_id"] for row in rows],
        "uri": [one_line(row["image_uri"], _MAX_URI_CHARS) for row in rows],
        "p": [_short(row["p_value"]) for row in rows],
        "score": [_short(row["mmd2"]) for row in rows],
        "alpha": _table([_short(row["alpha"]) for row in rows]),
        "width": [row["width_px"] for row in rows],
        "height": [row["height_px"] for row in rows],
        "message": {place: row["error_message"] for place, row in enumerate(rows) if row["error_message"]},
        "card": [places.get(row_key(row), -1) for row in rows],
        "outcome": _table([row["verdict"] or "failed" for row in rows]),
        "error": _table([row["error_code"] for row in rows]),
        "run": _table([row["run_id"] for row in rows]),
        "detector": _table([row["detector_id"] for row in rows]),
        **{kind: _table([found[kind] for found in strata]) for kind in KINDS},
        **{name: _table([row.get(name) for row in rows]) for name in DECLARED},
    }


def _table(values: Sequence[Any]) -> dict[str, list]:
    words = list(dict.fromkeys(value for value in values if value is not None))
    places = {word: place for place, word in enumerate(words)}
    return {"words": words, "places": [places.get(value, -1) for value in values]}
