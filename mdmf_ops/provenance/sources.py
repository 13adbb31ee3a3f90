"""Digital source types: the closed list of what a file may be said to be."""

import re
from collections.abc import Iterable

GENERATED = "trainedAlgorithmicMedia"
"""Made by a model that was trained on samples: what is called AI-generated."""

# IPTC's list, http://cv.iptc.org/newscodes/digitalsourcetype, its retired terms among them: what says most of
# generation comes first, what says least last.
_SOURCES = (
    *(GENERATED, "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "algorithmicMedia"),
    *("algorithmicallyEnhanced", "dataDrivenMedia", "virtualRecording", "digitalCreation", "digitalArt"),
    *("softwareImage", "composite", "compositeCapture", "humanEdits", "minorHumanEdits", "screenCapture"),
    *("print", "positiveFilm", "negativeFilm", "computationalCapture", "digitalCapture"),
)

_LIST = re.compile(r"^https?://cv\.iptc\.org/newscodes/digitalsourcetype/")

_RANK = {source: rank for rank, source in enumerate(_SOURCES)}


def source_of(uri: str) -> str | None:
    """The term that a URI of IPTC's list names, or a bare term is; None for any other text."""
    term = _LIST.sub("", uri)
    return term if term in _RANK else None


def strongest(sources: Iterable[str]) -> str | None:
    """Of several terms, the one that says most of generation; None of none."""
    return min(sources, key=_RANK.__getitem__, default=None)
