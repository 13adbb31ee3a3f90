"""What the active manifest of a C2PA store claims: read without checking that anyone vouches for it.

A store is a tree of JUMBF boxes (ISO 19566-5): manifests, and in each a claim and assertions in CBOR. Few strings of it
are wanted, so they are looked for by their keys, as CBOR writes them; nothing is built of a stranger's bytes.
"""

import re
from collections.abc import Iterator
from itertools import chain, islice

from mdmf_ops.images.pieces import boxes
from mdmf_ops.provenance.claim import MAX_PARENTS, Claim, make_claim, with_parents
from mdmf_ops.provenance.sources import source_of

_MAX_BOXES = 1000
_MAX_TEXT_BYTES = 1000
_MAX_FINDS = 100
_NEAR_BYTES = 200


def read_claim(store: bytes) -> Claim:
    """What the last manifest of a store claims, and those it was made from, as far as they can be read."""
    _label, inside = next(_superboxes(memoryview(store)), ("", memoryview(b"")))
    manifests = list(_superboxes(inside))
    places = dict(manifests)
    wanted = manifests[-1][0] if manifests else None
    claims: list[Claim] = []
    # Taken out as it is read: manifests that name each other are read once.
    while len(claims) <= MAX_PARENTS and (manifest := places.pop(wanted, None)):
        claim, wanted = _read_manifest(manifest)
        claims.append(claim)
    return with_parents(*claims) if claims else Claim([], None)


def _read_manifest(manifest: memoryview) -> tuple[Claim, str | None]:
    """What a manifest claims, and the label of the one it was made from."""
    sources: list[str | None] = []
    agents: list[str | None] = []
    software = parent = None
    for label, inside in _superboxes(manifest):
        if label.startswith("c2pa.claim"):
            software = software or _generator(bytes(inside))
        elif label == "c2pa.assertions":
            for name, assertion in _superboxes(inside):
                if name.startswith("c2pa.actions"):
                    sources += _sources(bytes(assertion))
                    agents += _agents(bytes(assertion))
                elif name.startswith("c2pa.ingredient"):
                    parent = parent or _parent(bytes(assertion))
    return make_claim(sources, software, agents), parent


def _superboxes(region: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Label and payload of each superbox in a region; the payload begins with the box that has the label."""
    for kind, start, end in islice(boxes(region), _MAX_BOXES):
        if kind == b"jumb":
            inside = region[start:end]
            # Before the label come sixteen bytes of type and one of flags.
            label = next((inside[first + 17 : last] for _kind, first, last in boxes(inside)), b"")
            yield bytes(label[:_MAX_TEXT_BYTES]).partition(b"\0")[0].decode("latin-1"), inside


def _sources(actions: bytes) -> list[str | None]:
    return [source_of(_text(actions, at) or "") for at in _behind(b"\x71digitalSourceType", actions)]


def _generator(claim: bytes) -> str | None:
    """The name in `claim_generator_info`; of old claims, `claim_generator`."""
    names = (_near(claim, b"\x64name", at) for at in _behind(b"\x74claim_generator_info", claim))
    older = (_text(claim, at) for at in _behind(b"\x6fclaim_generator", claim))
    return next(filter(None, chain(names, older)), None)


def _agents(actions: bytes) -> Iterator[str | None]:
    """The software agent of each action that creates: a text, or a map with one under `name`.

    What an action is stands first in it: what belongs to it ends where the next one begins.
    """
    for start in _behind(b"\x66action\x6cc2pa.created", actions):
        end = actions.find(b"\x66action", start)
        created = actions[start : end if end >= 0 else None]
        for at in islice(_behind(b"\x6dsoftwareAgent", created), 1):
            yield _text(created, at) or _near(created, b"\x64name", at)


def _parent(ingredient: bytes) -> str | None:
    """Label of the manifest of an ingredient that the image is an edit of; None where it is a mere part."""
    if b"\x6crelationship\x68parentOf" not in ingredient:
        return None
    # The second is of a `c2pa.ingredient.v3`, which says under the same key how its manifest was checked.
    at = max(ingredient.rfind(b"\x6dc2pa_manifest"), ingredient.rfind(b"\x6eactiveManifest"))
    url = _near(ingredient, b"\x63url", at) if at >= 0 else None
    return url.partition("/c2pa/")[2].partition("/")[0] if url else None


def _behind(key: bytes, content: bytes) -> Iterator[int]:
    """Places behind a key, the first ones."""
    return (found.end() for found in islice(re.finditer(re.escape(key), content), _MAX_FINDS))


def _near(content: bytes, key: bytes, at: int) -> str | None:
    """The text under a key that stands within some bytes behind `at`."""
    found = content.find(key, at, at + _NEAR_BYTES)
    return _text(content, found + len(key)) if found >= 0 else None


def _text(content: bytes, at: int) -> str | None:
    """The CBOR text at `at`, where one of up to 65,535 bytes is there."""
    mark, start = content[at : at + 1], at + 1
    if b"\x60" <= mark <= b"\x77":
        size_bytes = mark[0] - 0x60
    elif mark in (b"\x78", b"\x79"):  # behind it, its size in one byte or two
        start += mark[0] - 0x77
        size_bytes = int.from_bytes(content[at + 1 : start], "big")
    else:
        return None
    return content[start : start + min(size_bytes, _MAX_TEXT_BYTES)].decode("utf-8", errors="replace")
