"""Files that the official C2PA library would be at for long: it is not asked, and the rest is read all the same."""

import struct
from types import SimpleNamespace

import pytest
from conftest import encode, photo
from declared import C2PA_UUID, GENERATED, MIME_TYPES, after_pixels, box, chunk, picture, signed, with_segments

from mdmf_ops.provenance import Signature, read_declaration, signature
from mdmf_ops.provenance.pieces import in_few_pieces

STORE = box(b"jumb", box(b"jumd", bytes(16), b"\3c2pa\0"))


def uuid_box(store):
    return box(b"uuid", C2PA_UUID, bytes(4), b"manifest\0", bytes(8), store)


AVIF = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + uuid_box(STORE)
FREE = box(b"free")


def webp(*chunks):
    payload = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(payload)) + payload


def directory(order, big, *entries):
    """A directory of a TIFF with these entries: tag, number of values, and they or where they are."""
    count, entry, last = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    packed = (struct.pack(order + entry, tag, 7, values, value) for tag, values, value in entries)
    return struct.pack(order + count, len(entries)) + b"".join(packed) + bytes(last)


def tiff(entries, pointers=0, big=False, order="<", tag=0x14A):
    """A TIFF with a manifest and so many further entries, of which a directory of twelve is pointed to so often."""
    place = order + ("Q" if big else "I")
    further = directory(order, big, *[(256, 1, b"")] * 12)
    store_at = 16 + len(further)
    pointers_at = store_at + len(STORE)
    # The library takes an array of places to be in 32 bits, whichever TIFF it is.
    block = struct.pack(order + "I", 16) * pointers
    inline = 8 if big else 4
    alone = struct.pack(place, 16) if tag != 0x14A else block
    value = alone if len(block) <= inline else struct.pack(place, pointers_at)
    found = [(0xCD41, len(STORE), struct.pack(place, store_at)), *[(256, 1, b"")] * entries]
    found += [(tag, pointers, value)] if pointers else []
    start = pointers_at + len(block)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head = struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    return (magic + head).ljust(16, b"\0") + further + STORE + block + directory(order, big, *found)


FILES = {
    "free": (AVIF.__add__, FREE),
    "uuid": (AVIF.__add__, uuid_box(STORE)),
    "trak": (lambda many: AVIF + box(b"moov", many), box(b"trak")),
    "deeper": (lambda many: AVIF + box(b"moov", FREE, box(b"trak", box(b"mdia", many)), bytes(4)) + FREE, FREE),
    "meta": (lambda many: AVIF + box(b"meta", bytes(4), many), FREE),
    "meta of QuickTime": (lambda many: AVIF + box(b"meta", many), FREE),
    "64 bits": (lambda many: AVIF + struct.pack(">I4sQ", 1, b"moov", 16 + len(many)) + many + FREE, FREE),
    "to the end": (lambda many: AVIF + struct.pack(">I4s", 0, b"moov") + many, FREE),
    "PNG": (lambda many: after_pixels(encode(photo(1), "PNG"), chunk(b"caBX", STORE), many), chunk(b"teXt", b"")),
    "JPEG": (
        lambda many: with_segments(encode(photo(1)), (0xEB, b"JP\0\1\0\0\0\1" + STORE))[:-2] + many + b"\xff\xd9",
        b"\xff\xef\0\2",
    ),
    "WebP": (lambda many: webp((b"C2PA", STORE), (b"VP8X", bytes(10))) + many, b"none\0\0\0\0"),
}
BOXES, OTHERS = 2000, 20_000


@pytest.fixture
def asked(monkeypatch):
    """Grows whenever the library is asked, which refuses every file."""
    calls = []

    def read(*_arguments, **_context):
        calls.append(1)
        raise ValueError("damaged")

    monkeypatch.setattr(signature, "_library", lambda _anchors: (SimpleNamespace(Reader=read), None))
    return calls


def unasked(content, asked):
    asked.clear()
    said = read_declaration(content)
    assert said.c2pa_signature is (Signature.INVALID if asked else Signature.UNCHECKED)
    return not asked


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_many_pieces_is_not_given_to_the_library(name, asked):
    make, piece = FILES[name]
    most = OTHERS if name in ("PNG", "JPEG", "WebP") else BOXES
    assert not unasked(make(piece * (most - 100)), asked)
    assert unasked(make(piece * most), asked)
    assert unasked(make(piece * 10 * most), asked)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_many_entries_is_not_given_to_the_library(big, order, asked):
    form = {"big": big, "order": order}
    assert not unasked(tiff(OTHERS - 100, **form), asked)
    assert unasked(tiff(OTHERS + 1, **form), asked)
    # A directory costs its twelve entries as often as it is pointed to, and one for itself.
    assert not unasked(tiff(0, OTHERS // 13 - 1, **form), asked)
    assert unasked(tiff(0, OTHERS // 13 + 1, **form), asked)
    for tag in (0x14A, 0x8769, 0x8825):
        for pointers in (1, 2):
            assert not unasked(tiff(0, pointers, tag=tag, **form), asked)
        assert not unasked(tiff(OTHERS - 20, 1, tag=tag, **form), asked)
        assert unasked(tiff(OTHERS - 10, 1, tag=tag, **form), asked)


@pytest.mark.parametrize("size", range(2, 8))
def test_boxes_that_overlap_are_not_given_to_the_library(size, asked):
    shift = struct.pack(">I4s", size, b"free") + b"\x7f\xff\xff\xff"
    assert unasked(AVIF + shift, asked)
    assert unasked(AVIF + box(b"moov", shift), asked)
    assert unasked(AVIF + struct.pack(">I4sQ", 1, b"free", size), asked)


def test_boxes_within_each_other_without_number_are_walked_to_a_bound(asked):
    deep = b"".join(struct.pack(">I4s", 8 * (100_000 - i), b"meta") for i in range(100_000))
    assert unasked(AVIF + deep, asked)


@pytest.mark.parametrize("image_format", MIME_TYPES)
def test_ordinary_files_and_cut_ones_are_in_few_pieces(image_format):
    content = picture(image_format)
    assert in_few_pieces(content)
    assert all(in_few_pieces(content[:size]) for size in (0, 3, 8, 13, 20, 200))


def test_what_such_a_file_claims_is_read_without_the_library():
    said = read_declaration(signed("AVIF") + FREE * 3000)
    assert (said.source, said.by, said.software) == (GENERATED, "c2pa", "Test Generator")
    assert said.c2pa_signature is Signature.UNCHECKED
    assert read_declaration(signed("AVIF") + FREE * 1000).c2pa_signature is not Signature.UNCHECKED
