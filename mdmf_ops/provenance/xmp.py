"""The few properties of an XMP packet that tell of an image's making.

Expat, event by event: no tree is built, a document type is refused, and so no entity can be declared or expanded. Of
broken XML counts what stood before the break.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple
from xml.parsers import expat

from mdmf_ops.provenance.generators import labelled_generated
from mdmf_ops.provenance.sources import GENERATED, source_of, strongest

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ "
_SOURCE = (f"{_IPTC}DigitalSourceType", f"{_IPTC}DigitalSourcefileType")
_SOFTWARE = (f"{_IPTC}AISystemUsed", "http://ns.adobe.com/xap/1.0/ CreatorTool")
_LABEL = "http://www.tc260.org.cn/ns/AIGC/1.0/ AIGC"
_WANTED = (*_SOURCE, *_SOFTWARE, _LABEL)
_ROOT, _DESCRIPTION = f"{_RDF}RDF", f"{_RDF}Description"
_MAX_CHARS = 1000
_MAX_URI_CHARS = 250
"""Of a namespace: Expat writes it out in the name of each element and attribute. Those in use have under 100."""
_MAX_DEPTH = 32


class Packet(NamedTuple):
    """What a packet says: a digital source type, and which software made the image."""

    source: str | None
    software: str | None


class _Reader:
    """Collects the wanted properties of the image itself: of an `rdf:Description` directly under `rdf:RDF`.

    Those of an ingredient or of an earlier version stand deeper. A property has each of its values by itself: some
    writers say it twice, and a list may hold several.
    """

    def __init__(self):
        self.found: dict[str, list[str]] = {name: [] for name in _WANTED}
        self._path: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} elements within each other")
        if self._described() == []:
            for key, value in attributes.items():
                self._add(key, value)
        elif open_property := self._property():  # or an element of a list in one; the value may be a reference
            self._add(open_property, attributes.get(f"{_RDF}resource", ""))

    def end(self, _name: str) -> None:
        self._path.pop()

    def text(self, text: str) -> None:
        if open_property := self._property():
            values = self.found[open_property]
            values[-1] = (values[-1] + text)[:_MAX_CHARS]

    def refuse(self, *_declaration) -> None:
        raise ValueError("XMP has no document type")

    def declare(self, _prefix: str | None, uri: str | None) -> None:
        if len(uri or "") > _MAX_URI_CHARS:
            raise ValueError(f"a namespace of more than {_MAX_URI_CHARS} characters")

    def _described(self) -> list[str] | None:
        """Names of the open elements within the image's description; None outside of it."""
        below = self._path[self._path.index(_ROOT) + 1 :] if _ROOT in self._path else []
        return below[1:] if below[:1] == [_DESCRIPTION] else None

    def _property(self) -> str | None:
        """The wanted property that is open; a list of alternatives (`rdf:Alt`, `rdf:li`) may wrap its text."""
        match self._described():
            case [name, *wrapping] if name in _WANTED and all(tag.startswith(_RDF) for tag in wrapping):
                return name
        return None

    def _add(self, name: str, text: str) -> None:
        if name in _WANTED:
            self.found[name].append(text[:_MAX_CHARS])


def read_xmp(packet: bytes) -> Packet:
    """What a packet says of its image.

    Args:
        packet: bounded in size by the caller.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.StartNamespaceDeclHandler = reader.declare
    with suppress(expat.ExpatError, ValueError, LookupError):  # broken, refused, or in no known encoding
        # Some writers leave nulls behind the packet.
        parser.Parse(packet.rstrip(b"\0"), True)

    def values(*names: str) -> Iterator[str]:
        return filter(None, (text.strip() for name in names for text in reader.found[name]))

    labelled = any(map(labelled_generated, values(_LABEL)))
    source = GENERATED if labelled else strongest(filter(None, map(source_of, values(*_SOURCE))))
    return Packet(source, next(values(*_SOFTWARE), None))
