"""What the active manifest of a C2PA store claims: read without checking that anyone vouches for it.

A store is a tree of JUMBF boxes (ISO 19566-5): manifests, and in each a claim and assertions in CBOR. Few strings of it
are wanted, so they are looked for with the length that CBOR gives them; nothing is built of a stranger's bytes.
"""

import struct
from collections.abc import Iterator

from mdmf_ops.provenance.claim import MAX_PARENTS, Claim, make_claim, with_parents
from mdmf_ops.provenance.sources import SOURCE_PREFIXES, source_of

_MAX_BOXES = 1000
_MAX_TEXT_BYTES = 1000
_MAX_FINDS = 100
_NEAR_BYTES = 200


def read_claim(store: bytes) -> Claim:
    """What the last manifest of a store claims, and those it was made from, as far as they can be read."""
    try:
        manifests = list(_children(store, *_box(store, 0, len(store))[1:]))
    except (struct.error, IndexError):  # cut, or no JUMBF
        return Claim([], None)
    places = {label: (start, end) for label, start, end in manifests}
    wanted = manifests[-1][0] if manifests else None
    claims: list[Claim] = []
    # Taken out as it is read: manifests that name each other are read once.
    while len(claims) <= MAX_PARENTS and (place := places.pop(wanted, None)):
        claim, wanted = _read_manifest(store, *place)
        claims.append(claim)
    return with_parents(*claims) if claims else Claim([], None)


def _read_manifest(store: bytes, start: int, end: int) -> tuple[Claim, str | None]:
    """What a manifest claims, and the label of the one it was made from."""
    sources: list[str] = []
    agents: list[str | None] = []
    software = parent = None
    try:
        for label, first, last in _children(store, start, end):
            if label.startswith("c2pa.claim"):
                software = software or _generator(store[first:last])
            elif label == "c2pa.assertions":
                for name, at, until in _children(store, first, last):
                    if name.startswith("c2pa.actions"):
                        sources += _sources(store[at:until])
                        agents += _agents(store[at:until])
                    elif name.startswith("c2pa.ingredient"):
                        parent = parent or _parent(store[at:until])
    except (struct.error, IndexError):
        return Claim([], None), None
    return make_claim(sources, software, agents), parent


def _box(content: bytes, at: int, limit: int) -> tuple[bytes, int, int]:
    """Kind of the box at `at`, and where its payload starts and ends."""
    size, kind = struct.unpack_from(">I4s", content, at)
    start = at + 8
    if size == 1:
        [size] = struct.unpack_from(">Q", content, start)
        start += 8
    return kind, start, limit if size == 0 else min(limit, at + max(size, 8))


def _children(content: bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Label and payload of each labelled box within a superbox; the payload begins with the description box."""
    kind, _first, at = _box(content, start, end)
    if kind != b"jumd":
        return
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        kind, first, last = _box(content, at, end)
        if kind == b"jumb":
            yield _label(content, first, last), first, last
        at = last


def _label(content: bytes, start: int, end: int) -> str:
    _kind, first, last = _box(content, start, end)  # the description: sixteen bytes of type, one of flags, the label
    return content[first + 17 : min(last, first + 17 + _MAX_TEXT_BYTES)].partition(b"\0")[0].decode("latin-1")


def _sources(assertion: bytes) -> list[str]:
    found = []
    for prefix in SOURCE_PREFIXES:
        at = assertion.find(prefix)
        while at >= 0 and len(found) < _MAX_FINDS:
            # These URIs are longer than 23 bytes: their length is one byte or two, behind the mark of a text.
            if at >= 2 and assertion[at - 2] == 0x78:
                found.append(source_of(_decode(assertion, at, assertion[at - 1])))
            elif at >= 3 and assertion[at - 3] == 0x79:
                found.append(source_of(_decode(assertion, at, int.from_bytes(assertion[at - 2 : at], "big"))))
            at = assertion.find(prefix, at + 1)
    return [source for source in found if source]


def _generator(claim: bytes) -> str | None:
    """The name in `claim_generator_info`; of old claims, `claim_generator`."""
    at = claim.find(b"\x74claim_generator_info")
    if at >= 0 and (name := _near(claim, b"\x64name", at)) is not None:
        return name
    at = claim.find(b"\x6fclaim_generator")
    return _text(claim, at + 16) if at >= 0 else None


def _agents(assertion: bytes) -> list[str | None]:
    """The software agent of each action that creates: a text, or a map with one under `name`.

    What an action is stands first in it: what belongs to it ends where the next one begins.
    """
    action, created, key = b"\x66action", b"\x66action\x6cc2pa.created", b"\x6dsoftwareAgent"
    found, start = [], assertion.find(created)
    while start >= 0 and len(found) < _MAX_FINDS:
        start += len(created)
        end = assertion.find(action, start)
        at = assertion.find(key, start, len(assertion) if end < 0 else end) + len(key)
        if at < len(key):
            found.append(None)
        else:
            is_map = assertion[at] >> 5 == 5
            found.append(_near(assertion, b"\x64name", at) if is_map else _text(assertion, at))
        start = assertion.find(created, start)
    return found


def _parent(ingredient: bytes) -> str | None:
    """Label of the manifest of an ingredient that the image is an edit of; None where it is a mere part."""
    if b"\x6crelationship\x68parentOf" not in ingredient:
        return None
    # The second is of a `c2pa.ingredient.v3`, which says under the same key how its manifest was checked.
    at = max(ingredient.rfind(b"\x6dc2pa_manifest"), ingredient.rfind(b"\x6eactiveManifest"))
    url = _near(ingredient, b"\x63url", at) if at >= 0 else None
    return url.partition("/c2pa/")[2].partition("/")[0] if url else None


def _near(content: bytes, key: bytes, at: int) -> str | None:
    """The text under a key that stands within some bytes behind `at`."""
    found = content.find(key, at, at + _NEAR_BYTES)
    return _text(content, found + len(key)) if found >= 0 else None


def _text(content: bytes, at: int) -> str | None:
    """The CBOR text at `at`, where one of up to 65,535 bytes is there."""
    mark = content[at]
    if 0x60 <= mark <= 0x77:
        return _decode(content, at + 1, mark - 0x60)
    if mark == 0x78:
        return _decode(content, at + 2, content[at + 1])
    if mark == 0x79:
        return _decode(content, at + 3, int.from_bytes(content[at + 1 : at + 3], "big"))
    return None


def _decode(content: bytes, at: int, size: int) -> str:
    return content[at : at + min(size, _MAX_TEXT_BYTES)].decode("utf-8", errors="replace")
