"""`read_declaration`: from a file's bytes to what it says of its origin, in five columns."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mdmf_ops.images.pieces import container_of
from mdmf_ops.provenance import exif, generators
from mdmf_ops.provenance.blocks import Blocks, find_blocks
from mdmf_ops.provenance.claim import Claim, make_claim, with_parents
from mdmf_ops.provenance.jumbf import read_claim
from mdmf_ops.provenance.signature import Signature, check_signature
from mdmf_ops.provenance.sources import GENERATED, source_of, strongest
from mdmf_ops.provenance.xmp import read_xmp
from mdmf_ops.text import one_line

_MAX_SOFTWARE_CHARS = 120

_MAX_READ_US = (1 << 31) - 1
"""More than half an hour: what the row's column holds."""

_MEDIA_TYPES = {name: f"image/{name.lower()}" for name in ("JPEG", "PNG", "WEBP", "TIFF")} | {"ISO": "image/avif"}


@dataclass(frozen=True)
class Declaration:
    """What a file says of its origin. Anyone can write it, and anyone can take it out.

    Attributes:
        source: a term of IPTC's digital source types; a generator's own mark counts as `trainedAlgorithmicMedia`. Of
            several, the one that says most of generation. None where the file says nothing of the kind.
        by: where it says so: `c2pa`, `text` (a PNG's text chunk), `xmp` or `exif`, the first of these.
        software: what made or last wrote the file, as that block names it: one line of at most 120 characters.
        c2pa_signature: of the C2PA manifest; None where there is none.
        read_us: how long reading took, in microseconds.
    """

    source: str | None = None
    by: str | None = None
    software: str | None = None
    c2pa_signature: Signature | None = None
    read_us: int = 0


class _Said(NamedTuple):
    by: str
    source: str | None
    software: str | None


def read_declaration(content: bytes, trust_anchors: str | None = None) -> Declaration:
    """Reads what a file says of its origin from its metadata. Damaged metadata says less and raises nothing.

    Args:
        trust_anchors: certificates in PEM, whose holders vouch for signers of C2PA manifests; see `check_anchors`.
    """
    started_ns = time.perf_counter_ns()
    try:
        declaration = _read(content, trust_anchors)
    except Exception:  # whatever a stranger's metadata may do, the image's score stands
        declaration = Declaration()
    return replace(declaration, read_us=min((time.perf_counter_ns() - started_ns) // 1000, _MAX_READ_US))


def _read(content: bytes, trust_anchors: str | None) -> Declaration:
    blocks = find_blocks(content)
    signature = None
    said: list[_Said] = []
    if blocks.c2pa is not None:
        signature, claim = _read_c2pa(content, blocks.c2pa, trust_anchors)
        said.append(_Said("c2pa", strongest(claim.sources), claim.software))
    said += _read_others(blocks)
    source = strongest(each.source for each in said if each.source)
    by = next((each for each in said if each.source and each.source == source), None)
    software = by.software if by and by.software else next((each.software for each in said if each.software), None)
    return Declaration(
        source=source,
        by=by and by.by,
        software=one_line(software, _MAX_SOFTWARE_CHARS).strip() or None if software else None,
        c2pa_signature=signature,
    )


def _read_c2pa(content: bytes, store: bytes, trust_anchors: str | None) -> tuple[Signature, Claim]:
    signature, manifests = check_signature(content, _MEDIA_TYPES[container_of(content)], trust_anchors)
    if not manifests:
        return signature, read_claim(store)
    # Of what is signed only the library's reading counts: another reader may be led to another manifest.
    return signature, with_parents(*map(_claim_of, manifests))


def _claim_of(manifest: dict[str, Any]) -> Claim:
    """The same of a manifest as the library gives it."""
    try:
        assertions = [a for a in manifest.get("assertions", ()) if str(a.get("label")).startswith("c2pa.actions")]
        actions = [action for assertion in assertions for action in assertion.get("data", {}).get("actions", ())]
        sources = [source_of(str(action.get("digitalSourceType"))) for action in actions]
        agents = (action.get("softwareAgent") for action in actions if action.get("action") == "c2pa.created")
        agents = [agent.get("name") if isinstance(agent, dict) else agent for agent in agents]
        names = [info.get("name") for info in manifest.get("claim_generator_info") or ()]
    except (AttributeError, TypeError):  # a signer may give its assertions any shape
        return Claim([], None)
    software = next(filter(None, names), manifest.get("claim_generator"))
    return make_claim(sources, software and str(software), (agent for agent in agents if isinstance(agent, str)))


def _read_others(blocks: Blocks) -> Iterator[_Said]:
    if blocks.text:
        generator = generators.in_text_chunks(blocks.text)
        generated = generator or generators.labelled_generated(blocks.text.get("AIGC", ""))
        yield _Said("text", GENERATED if generated else None, generator or blocks.text.get("Software"))
    if blocks.xmp:
        packet = read_xmp(blocks.xmp)
        generated = packet.software is not None and generators.named_generator(packet.software)
        yield _Said("xmp", packet.source or (GENERATED if generated else None), packet.software)
    if blocks.exif:
        texts = exif.read_texts(blocks.exif)
        generator = generators.in_exif(texts)
        yield _Said("exif", generator and GENERATED, generator or texts.get(exif.SOFTWARE))
