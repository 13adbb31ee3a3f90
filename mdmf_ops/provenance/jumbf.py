"""What the active manifest of a C2PA store claims: read without checking that anyone vouches for it.

A store is a tree of JUMBF boxes (ISO 19566-5): manifests, and in each a claim and assertions in CBOR. Two strings of it
are wanted, so they are looked for with the length that CBOR gives them; nothing is built of a stranger's bytes.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from mdmf_ops.provenance.sources import SOURCE_PREFIXES, source_of

_MAX_BOXES = 1000
_MAX_TEXT_BYTES = 1000
_MAX_FINDS = 100
_NEAR_BYTES = 200


class Claim(NamedTuple):
    """The digital source types of the active manifest's actions, and what made the claim."""

    sources: list[str]
    software: str | None


def read_claim(store: bytes) -> Claim:
    """What the last manifest of a store claims, as far as it can be read."""
    try:
        manifests = list(_children(store, *_box(store, 0, len(store))[1:]))
        active = manifests[-1] if manifests else None
        sources: list[str] = []
        software = None
        for label, start, end in _children(store, *active[1:]) if active else ():
            if label.startswith("c2pa.claim"):
                software = software or _generator(store[start:end])
            elif label == "c2pa.assertions":
                for name, first, last in _children(store, start, end):
                    if name.startswith("c2pa.actions"):
                        sources += _sources(store[first:last])
    except (struct.error, IndexError):  # cut, or no JUMBF
        return Claim([], None)
    return Claim(sources, software)


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
    if at >= 0:
        name = claim.find(b"\x64name", at, at + _NEAR_BYTES)
        if name >= 0:
            return _text(claim, name + 5)
    at = claim.find(b"\x6fclaim_generator")
    return _text(claim, at + 16) if at >= 0 else None


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
