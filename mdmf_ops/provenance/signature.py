"""Whether a C2PA manifest's signature holds: asked of the official library, where it is installed."""

import importlib.util
import io
import os
import ssl
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from mdmf_ops.provenance.claim import MAX_PARENTS
from mdmf_ops.provenance.pieces import in_few_pieces

_SETTINGS = {
    # Nothing that a stranger's file names is fetched: an identity's issuer would be asked for at its own host.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
    "core": {
        **{"decode_identity_assertions": False, "allowed_network_hosts": []},
        # Nor is a packed manifest unpacked: two kilobytes may hold 32 MB, and a file has as many as it likes.
        "max_decompressed_manifest_size_in_mb": 0,
    },
}

_PACKED = b"brob"
"""The box of a manifest that is packed."""


class Signature(str, Enum):
    """What is known of a C2PA manifest's signature. Closed list."""

    TRUSTED = "trusted"
    """Unbroken, and a trust anchor vouches for the signer."""
    VALID = "valid"
    """Unbroken: the file is as its signer left it. Who that is nobody vouches for: anyone can make such a key."""
    INVALID = "invalid"
    """The file or its manifest was changed, or the signature does not fit."""
    UNCHECKED = "unchecked"
    """There is a manifest that nobody checked: the library (`pip install 'mdmf-ops[c2pa]'`) is not there, the file is
    in too many pieces for it, or the manifest is packed."""


class Checked(NamedTuple):
    """The signature, and of one that holds the manifests as the library reads them, else none.

    The active one comes first, behind it those it was made from, nearest first. The signature covers them all.
    """

    signature: Signature
    manifests: list[dict[str, Any]]


def check_anchors(anchors: str) -> None:
    """Finds out whether signatures can be checked against trust anchors.

    Raises:
        ValueError: these are no certificates in PEM, of which the library would say nothing; or it is not installed.
    """
    plain = anchors.encode("ascii", "replace").decode()  # what stands around certificates may be of any script
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=plain)
    except (ssl.SSLError, ValueError) as error:  # ValueError: nothing at all
        raise ValueError(f"no certificates in PEM: {error}") from error
    if importlib.util.find_spec("c2pa") is None:
        raise ValueError("signatures are checked by the C2PA library: pip install 'mdmf-ops[c2pa]'")


@lru_cache(maxsize=1)
def _library(anchors: str | None) -> tuple[Any, Any] | None:
    """The library and its settings, loaded when the first manifest is met: it takes a quarter of a second and 20 MB."""
    try:
        import c2pa
    except (ImportError, OSError):  # OSError: its binary does not load on this system
        return None
    trust = {"trust": {"trust_anchors": anchors}} if anchors else {}
    return c2pa, c2pa.Context.from_dict(_SETTINGS | trust)


os.register_at_fork(after_in_child=_library.cache_clear)  # of its parent's settings the library would say: none


def check_signature(content: bytes, mime_type: str, anchors: str | None = None) -> Checked:
    """Checks the manifest in a file that has one.

    Args:
        mime_type: of the file, by its content.
        anchors: certificates in PEM that make a signer trusted; None trusts nobody.
    """
    if not in_few_pieces(content) or (library := _library(anchors)) is None:
        return Checked(Signature.UNCHECKED, [])
    c2pa, context = library
    try:
        with c2pa.Reader(mime_type, io.BytesIO(content), context=context) as reader:
            state = reader.get_validation_state()
            manifests = _lineage(reader)
    except Exception:  # of whatever kind the library says that a file is damaged
        return Checked(Signature.UNCHECKED if _PACKED in content else Signature.INVALID, [])
    signature = {"Trusted": Signature.TRUSTED, "Valid": Signature.VALID}.get(state, Signature.INVALID)
    return Checked(signature, [] if signature is Signature.INVALID else manifests)


def _lineage(reader: Any) -> list[dict[str, Any]]:
    found = [reader.get_active_manifest()]
    with suppress(StopIteration, KeyError):  # an ingredient may have come without its manifest
        for _ in range(MAX_PARENTS):
            ingredients = found[-1].get("ingredients", ())
            parent = next(each for each in ingredients if each.get("relationship") == "parentOf")
            found.append(reader.get_manifest(parent["active_manifest"]))
    return found
