"""Rows to what a page shows of them, a row at a time: counts, distributions, and the images to show one by one.

Memory is bounded by what is shown, but for the score of each scored image.
"""

import bisect
import hashlib
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mdmf_ops.report.strata import Counts
from mdmf_ops.report.svg import histogram
from mdmf_ops.schema import SCHEMA, VERDICTS

Row = Mapping[str, Any]

DECLARED = tuple(name for name in SCHEMA.names if name.startswith(("declared_", "c2pa_")) and not name.endswith("_us"))
"""Columns of what a file says of itself."""

LIST_COLUMNS = (
    *("row_id", "run_id", "scanned_at", "image_uri", "image_generation", "image_bytes", "image_format"),
    *("width_px", "height_px", "jpeg_quality", "status", "error_code", "error_message", "mmd2", "p_value"),
    *("verdict", "alpha", *DECLARED, "detector_id", "calibration_id"),
)
"""What is read of every row."""

_BARS = 20
_SCORE_BARS = 40
_EXAMPLES = 3
_MAX_DECLARED = 10_000
"""Distinct values of a column that are counted each: about a megabyte of them."""
_SHOWN_DECLARED = 12
_OTHERS = "others"
_MAX_CHARTS = 4


class Smallest:
    """The `count` rows with the smallest keys of all that were pushed."""

    def __init__(self, count: int, key: Callable[[Row], tuple]):
        self._count = count
        self._key = key
        self._entries: list[tuple[tuple, int, Row]] = []  # smallest first; of equal keys, as they were pushed
        self._pushed = 0

    def push(self, row: Row) -> None:
        """Keeps the row if it is among the smallest so far."""
        entry = (self._key(row), self._pushed, row)
        self._pushed += 1
        if len(self._entries) < self._count or (self._entries and entry < self._entries[-1]):
            bisect.insort(self._entries, entry)
            del self._entries[self._count :]

    def rows(self) -> list[Row]:
        """Them, smallest first."""
        return [row for _key, _place, row in self._entries]


def _by_strength(row: Row) -> tuple:
    if row["verdict"] is None:
        return (2.0, 0.0, row["image_uri"])  # behind every p-value
    return (row["p_value"], -row["mmd2"], row["image_uri"])


def _by_doubt(row: Row) -> tuple:
    return (abs(math.log(row["p_value"] / row["alpha"])), row["image_uri"])


def _by_chance(row: Row) -> tuple:
    return (hashlib.sha256(f"{row['image_uri']}\n{row['row_id']}".encode()).digest(),)


SECTIONS = {
    "strongest": (_by_strength, "The smallest p-values, and of equal ones the higher score."),
    "uncertain": (_by_doubt, "p-values nearest to alpha, on either side of it: where the verdict hangs on least."),
    "random": (_by_chance, "Any scored image: what an ordinary one looks like."),
}
"""Of the gallery: by which key the first rows are in each, and what those are."""


class Tally:
    """What is known after the rows that were added.

    Attributes:
        strata: counts by kind of image.
        outcomes: rows by verdict, `failed` being one.
        detectors: the same for each (detector_id, alpha).
        errors: failed rows by code; `examples` has the first few of each.
        declared: scored and failed rows by what they say, for each of `DECLARED`; `others` beyond 10,000 values.
        list: the rows to list.
        sections: by name of `SECTIONS`, the rows to show with their maps.
    """

    def __init__(self, list_rows: int, gallery_rows: int):
        self.strata = Counts()
        self.outcomes: Counter[str] = Counter()
        self.detectors: defaultdict[tuple[str, float], Counter[str]] = defaultdict(Counter)
        self.errors: Counter[str] = Counter()
        self.examples: defaultdict[str, list[Row]] = defaultdict(list)
        self.declared: dict[str, Counter[str]] = {name: Counter() for name in DECLARED}
        self.list = Smallest(list_rows, _by_strength)
        self.sections = {name: Smallest(gallery_rows, key) for name, (key, _about) in SECTIONS.items()}
        self._p_values = {verdict: [0] * _BARS for verdict in VERDICTS}
        self._scores: defaultdict[str, dict[str, array]] = defaultdict(lambda: {name: array("f") for name in VERDICTS})

    def add(self, row: Row) -> None:
        """Takes one row in, with `LIST_COLUMNS`."""
        outcome = row["verdict"] or "failed"
        self.strata.add(row)
        self.outcomes[outcome] += 1
        self.detectors[row["detector_id"], row["alpha"]][outcome] += 1
        for name, counts in self.declared.items():
            # A stranger chooses the values: beyond a bound, new ones are counted together.
            if (value := row.get(name)) is not None:
                counts[value if value in counts or len(counts) < _MAX_DECLARED else _OTHERS] += 1
        self.list.push(row)
        if row["verdict"] is None:
            self.errors[row["error_code"]] += 1
            if self.errors[row["error_code"]] <= _EXAMPLES:
                self.examples[row["error_code"]].append(row)
            return
        self._p_values[outcome][min(int(row["p_value"] * _BARS), _BARS - 1)] += 1
        self._scores[row["detector_id"]][outcome].append(row["mmd2"])
        for section in self.sections.values():
            section.push(row)

    def most_declared(self) -> dict[str, dict[str, int]]:
        """What most rows say, largest count first, for each of `DECLARED` that one says; the rest is `others`, last."""
        shown = {}
        for name, counts in self.declared.items():
            named = Counter({value: count for value, count in counts.items() if value != _OTHERS})
            most = dict(named.most_common(_SHOWN_DECLARED))
            if rest := counts.total() - sum(most.values()):
                most[_OTHERS] = rest
            if most:
                shown[name] = most
        return shown

    def p_value_chart(self) -> str:
        """Histogram of all p-values, by verdict, as SVG."""
        scored = sum(self.outcomes[verdict] for verdict in VERDICTS)
        title = f"p-values of {scored:,} scored images; dotted: an even share, the most of real ones at the left"
        edges = np.linspace(0, 1, _BARS + 1)
        return histogram(edges, self._p_values, title=title, x_label="p-value", expected=scored / _BARS)

    def score_charts(self) -> dict[str, str]:
        """Histogram of the scores of each detector, by verdict, as SVG: the most used detectors, since scores of two
        detectors do not compare."""
        most_used = sorted(self._scores, key=lambda detector_id: -sum(map(len, self._scores[detector_id].values())))
        return {detector_id: self._score_chart(detector_id) for detector_id in most_used[:_MAX_CHARTS]}

    def _score_chart(self, detector_id: str) -> str:
        scores = {verdict: np.asarray(values) for verdict, values in self._scores[detector_id].items()}
        every = np.concatenate(list(scores.values()))
        low, high = float(every.min()), float(every.max())
        edges = np.linspace(low, high if high > low else low + 1e-3, _SCORE_BARS + 1)
        counts = {verdict: np.histogram(values, edges)[0].tolist() for verdict, values in scores.items()}
        title = f"scores of {every.size:,} images under {detector_id}, by verdict"
        return histogram(edges, counts, title=title, x_label="score (squared MMD)")
