"""How often each kind of image is flagged, and where that is far more often than alpha promises."""

import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mdmf_ops.schema import VERDICTS

KINDS = ("format", "JPEG quality", "size", "source")

WARN_TIMES = 3
"""A stratum is warned of where even the lower end of its interval is this many times alpha."""
MIN_IMAGES = 20
"""Scored images under which a stratum is not judged."""

_Z = 1.959964  # of a 95 % interval
_QUALITIES = ((60, 75, 85, 95), ("below 60", "60-74", "75-84", "85-94", "95-100"))
_MEGAPIXELS = ((0.25, 1, 4, 12), ("below 0.25 MP", "0.25-1 MP", "1-4 MP", "4-12 MP", "12 MP and more"))
_OUTCOMES = (*VERDICTS, "failed")
_MAX_SOURCES = 30
OTHER_SOURCES = "other folders"
_MAX_FOLDERS = 20_000
_SHARD = re.compile(r".*?\.tar(?=#)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Stratum:
    """Counts of one kind of image.

    Attributes:
        kind: one of `KINDS`.
        expected: about how many would be flagged at most, were all of them real: the sum of their alphas.
    """

    kind: str
    name: str
    scored: int
    flagged: int
    uncertain: int
    failed: int
    expected: float

    @property
    def rate(self) -> float | None:
        """Share of the scored images that are likely_ai; None where none was scored."""
        return self.flagged / self.scored if self.scored else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the rate."""
        return wilson(self.flagged, self.scored)

    @property
    def warned(self) -> bool:
        """Whether it is flagged far beyond alpha, and that is not chance."""
        return self.scored >= MIN_IMAGES and self.interval[0] * self.scored > WARN_TIMES * self.expected


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a rate (Wilson 1927): of use at 0 of n too, where the plain one has no width."""
    if not trials:
        return 0.0, 1.0
    rate, z2 = hits / trials, _Z**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # At the ends it is exact, but for rounding.
    return (max(middle - half, 0.0) if hits else 0.0), (min(middle + half, 1.0) if hits < trials else 1.0)


def image_strata(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Format, JPEG quality and size class of a row; None where the row does not say."""
    image_format, quality = row["image_format"], row["jpeg_quality"]
    if image_format is None:
        return dict.fromkeys(KINDS[:3])
    return {
        "format": image_format,
        "JPEG quality": "not JPEG-like" if quality is None else _class(quality, *_QUALITIES),
        "size": _class(row["width_px"] * row["height_px"] / 1e6, *_MEGAPIXELS),
    }


def _class(value: float, edges: tuple[float, ...], names: tuple[str, ...]) -> str:
    return names[bisect_right(edges, value)]


def folder_of(uri: str) -> tuple[str, ...]:
    """Folders that an image lies in, outermost first: what is before the last slash, or the shard of one in a tar."""
    shard = _SHARD.match(uri)
    return tuple((shard[0] if shard else uri.rpartition("/")[0]).split("/"))


class Counts:
    """Counts rows by stratum, a row at a time. Memory is bounded: beyond 20,000 folders their last levels merge."""

    def __init__(self):
        self._strata: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._folders: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self._depth: int | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts one row."""
        outcome, expected = (row["verdict"], row["alpha"]) if row["verdict"] else ("failed", 0)
        counted = [self._strata[kind, name] for kind, name in image_strata(row).items() if name is not None]
        for counts in (*counted, self._folders[folder_of(row["image_uri"])[: self._depth]]):
            counts[outcome] += 1
            counts["expected"] += expected
        if len(self._folders) > _MAX_FOLDERS:
            self._depth = _deepest_level(self._folders, _MAX_FOLDERS)
            self._folders = _merge(self._folders, self._depth)

    def sources(self) -> "Sources":
        """The folders to tell images by: the deepest level at which they are few enough to read.

        Where that is a single one, the largest of the level below, and the rest as one.
        """
        few, single = (_deepest_level(self._folders, most) for most in (_MAX_SOURCES, 1))
        depth = min(max(few, single + 1), max(map(len, self._folders), default=1))
        counts = _merge(self._folders, depth)
        largest = sorted(counts, key=lambda folder: (-sum(counts[folder][outcome] for outcome in _OUTCOMES), folder))
        return Sources(depth, frozenset(largest[: _MAX_SOURCES - (len(largest) > _MAX_SOURCES)]))

    def strata(self) -> list[Stratum]:
        """Every stratum, by kind; qualities and sizes in their order, the others by count."""
        order = {name: place for place, name in enumerate((*_QUALITIES[1], *_MEGAPIXELS[1]))}
        sources = self.sources()
        of_sources = defaultdict(Counter)
        for folder, found in self._folders.items():
            of_sources["source", sources.name(folder)].update(found)
        strata = [_stratum(kind, name, found) for (kind, name), found in (*self._strata.items(), *of_sources.items())]
        return sorted(strata, key=lambda s: (KINDS.index(s.kind), order.get(s.name, -1), -s.scored, s.name))

    def overall(self) -> Stratum:
        """All rows as one stratum."""
        return _stratum("all", "all images", sum(self._folders.values(), Counter()))


@dataclass(frozen=True)
class Sources:
    """Which folder an image is counted under.

    Attributes:
        depth: levels of folders that tell sources apart.
        named: those that are sources of their own; the others are one.
    """

    depth: int
    named: frozenset[tuple[str, ...]]

    def name(self, folder: tuple[str, ...]) -> str:
        """Source of the images in a folder, as a person writes it."""
        folder = folder[: self.depth]
        return ("/".join(folder) or "/") if folder in self.named else OTHER_SOURCES


def _deepest_level(folders: Mapping[tuple[str, ...], Any], most: int) -> int:
    """The deepest level at which folders are no more than so many; 0 where even the outermost are more."""
    levels = range(1, max(map(len, folders), default=0) + 1)
    # The deeper, the more: so it is searched. A stranger may put an image into hundreds of folders.
    return bisect_right(levels, most, key=lambda depth: len({folder[:depth] for folder in folders}))


def _merge(folders: Mapping[tuple[str, ...], Counter[str]], depth: int) -> defaultdict[tuple[str, ...], Counter[str]]:
    merged = defaultdict(Counter)
    for folder, found in folders.items():
        merged[folder[:depth]].update(found)
    return merged


def _stratum(kind: str, name: str, found: Counter[str]) -> Stratum:
    scored = found["likely_ai"] + found["uncertain"] + found["likely_real"]
    return Stratum(
        kind, name, scored, found["likely_ai"], found["uncertain"], found["failed"], float(found["expected"])
    )
