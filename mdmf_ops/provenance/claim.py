"""What a C2PA manifest claims, whichever reader read it, and what it takes over from those it was made from."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from mdmf_ops.provenance.generators import named_generator
from mdmf_ops.provenance.sources import GENERATED

MAX_PARENTS = 4
"""Manifests that are followed back from the active one, each by the `parentOf` ingredient of the one before."""

_MAX_NAME_CHARS = 1000
_MAX_AGENTS = 100

# An edit leaves a generated image generated, whatever it says of itself; of a photograph it may leave nothing.
_INHERITED = (GENERATED, "compositeWithTrainedAlgorithmicMedia")


class Claim(NamedTuple):
    """The digital source types of a manifest's actions, and what made the claim."""

    sources: list[str]
    software: str | None


def make_claim(sources: Iterable[str | None], software: str | None, agents: Iterable[str | None]) -> Claim:
    """A manifest's claim; where no source type is known, a generator's name counts as one.

    Args:
        software: what made the claim.
        agents: the software agents of the actions that created it: an edit by one may be a small one.
    """
    known = [source for source in sources if source]
    if not known:
        names = filter(None, (software, *islice(agents, _MAX_AGENTS)))
        known = [GENERATED] if any(named_generator(name[:_MAX_NAME_CHARS]) for name in names) else []
    return Claim(known, software)


def with_parents(active: Claim, *parents: Claim) -> Claim:
    """The active manifest's claim, and what those it was made from say of generation."""
    inherited = [source for parent in parents for source in parent.sources if source in _INHERITED]
    return active._replace(sources=active.sources + inherited)
