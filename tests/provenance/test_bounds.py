"""How much a stranger's metadata has read, copied and unpacked: counted, not timed."""

import io
import itertools
import random
import struct
import tracemalloc
import zlib

import pytest
from conftest import encode, photo
from declared import C2PA_UUID, GENERATED, after_pixels, box, chunk, exif, picture, png_with_text, with_segments, xmp
from PIL import Image

from mdmf_ops.provenance import blocks, read_declaration
from mdmf_ops.provenance import xmp as packets
from mdmf_ops.provenance.blocks import find_blocks
from mdmf_ops.provenance.xmp import read_xmp

XMP_KEYWORD = b"XML:com.adobe.xmp"


class Counted(bytes):
    """Bytes that count how many of them are copied."""

    copied_bytes = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        self.copied_bytes += len(found) if isinstance(key, slice) else 0
        return found


@pytest.fixture
def unpacked(monkeypatch):
    """How many bytes each chunk was unpacked to."""
    sizes, real = [], zlib.decompressobj

    class Unpacker:
        def decompress(self, *arguments):
            sizes.append(0)
            found = real().decompress(*arguments)
            sizes[-1] = len(found)
            return found

    monkeypatch.setattr(blocks.zlib, "decompressobj", Unpacker)
    return sizes


def test_many_boxes_of_an_avif_do_not_copy_the_file_each():
    uuid = box(b"uuid", C2PA_UUID, bytes(4), b"another purpose\0")
    content = Counted(picture("AVIF", exif=exif({0x0131: "Camera"})) + uuid * 1000 + box(b"free", bytes(1 << 20)))
    assert b"Camera" in find_blocks(content).exif
    assert content.copied_bytes < len(content)


@pytest.mark.parametrize(
    ("keyword", "head", "packed"),
    [
        (b"Comment", b"", zlib.compress(b"a" * 1000)),
        (b"Comment", b"", b"\x78\x9cbroken"),
        (XMP_KEYWORD, b"\1\0\0\0", zlib.compress(b"a" * 1000)),
        (XMP_KEYWORD, b"\1\0\0\0", zlib.compress(b"")),
    ],
    ids=["text", "broken text", "xmp", "empty xmp"],
)
def test_chunks_that_repeat_a_keyword_are_not_all_unpacked(keyword, head, packed, unpacked):
    kind = b"iTXt" if head else b"zTXt"
    each = chunk(kind, keyword + b"\0" + (head or b"\0") + packed)
    find_blocks(after_pixels(encode(photo(1), "PNG"), each * 1000))
    assert 1 <= len(unpacked) <= 32


def test_a_repeated_keyword_hides_no_other():
    content = after_pixels(
        encode(photo(1), "PNG"), chunk(b"tEXt", b"Comment\0first") * 1000, chunk(b"tEXt", b"Software\0Midjourney")
    )
    assert find_blocks(content).text == {"Comment": "first", "Software": "Midjourney"}


def test_texts_are_kept_to_a_bound():
    wide = "\U0001f4f7" + "a" * 900_000  # four bytes each in memory
    content = png_with_text(packed=True, international=True, **{f"key{i}": wide for i in range(64)})
    tracemalloc.start()
    try:
        texts = find_blocks(content).text
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(texts) == 32 and peak_bytes < 50 << 20


@pytest.mark.parametrize(("international", "packed"), [(False, True), (True, True), (True, False)])
def test_of_text_no_more_is_unpacked_than_is_kept(international, packed, unpacked):
    kept = "\U0001f4f7" * (64 << 10) if international else "é" * (256 << 10)
    content = png_with_text(packed=packed, international=international, Comment=kept + "a" * (600 << 10))
    assert find_blocks(content).text == {"Comment": kept}
    assert unpacked == [256 << 10] * packed


def test_packed_xmp_is_unpacked_to_its_own_bound(unpacked):
    packet = xmp(form="element").replace(b"<rdf:Description", b" " * (600 << 10) + b"<rdf:Description")
    content = png_with_text(packed=True, international=True, **{XMP_KEYWORD.decode(): packet.decode()})
    assert read_declaration(content).source == GENERATED
    assert unpacked == [len(packet)]


@pytest.mark.parametrize("place", ["element", "attribute"])
def test_a_long_namespace_is_not_written_out_for_each_name(place, monkeypatch):
    handed, real = [0], packets._Reader.start

    def start(reader, name, attributes):
        handed[0] += len(name) + sum(map(len, attributes))
        real(reader, name, attributes)

    monkeypatch.setattr(packets._Reader, "start", start)
    many = "<p:a/>" * 500 if place == "element" else "<a " + " ".join(f'p:b{i}=""' for i in range(500)) + "/>"
    packet = f'<x xmlns:p="{"u" * 10_000}">{many}</x>'.encode()
    assert read_xmp(packet) == (None, None)
    assert handed[0] < 10 * len(packet)


def test_a_namespace_as_long_as_any_in_use_is_read():
    packet = xmp().replace(b"<rdf:Description", b'<rdf:Description xmlns="" xmlns:p="' + b"u" * 200 + b'" p:x="y"')
    assert read_xmp(packet).source == GENERATED
    assert read_xmp(packet.replace(b"u" * 200, b"u" * 2000)).source is None


# An AVIF's items, by hand: of every version and place that ISO 14496-12 has.

EXIF_ITEM = bytes(4) + exif({0x0131: "Camera"})
XMP_ITEM = xmp()


def avif_with_items(*, wide=False, in_meta=False, version=0, parts=1):
    """An AVIF, without pixels, of an EXIF item and an XMP item, each in so many extents."""
    payload = EXIF_ITEM + XMP_ITEM
    number = "I" if wide else "H"
    types = [(7, b"Exif", b""), (9, b"mime", b"application/rdf+xml\0")]
    infos = [
        box(b"infe", bytes([3 if wide else 2, 0, 0, 0]), struct.pack(f">{number}H4s", item, 0, kind), b"name\0", more)
        for item, kind, more in types
    ]
    iinf = box(b"iinf", bytes([wide, 0, 0, 0]), struct.pack(f">{number}", len(infos)), *infos)
    head = box(b"ftyp", b"avif", bytes(4), b"mif1")

    def whole(start):
        number = "I" if version == 2 else "H"
        index = struct.pack(">H", 1) if version else b""
        iloc = bytes([version, 0, 0, 0, 0x44, 0x42 if version else 0x40]) + struct.pack(f">{number}", 2)
        for item, first, last in ((7, 0, len(EXIF_ITEM)), (9, len(EXIF_ITEM), len(payload))):
            iloc += struct.pack(f">{number}", item) + (struct.pack(">H", in_meta) if version else b"")
            iloc += struct.pack(">HIH", 0, start, parts)
            cuts = [first + (last - first) * part // parts for part in range(parts + 1)]
            for cut, end in itertools.pairwise(cuts):
                iloc += index + struct.pack(">II", cut, end - cut)
        idat = box(b"idat", payload) if in_meta else b""
        return head + box(b"meta", bytes(4), iinf, box(b"iloc", iloc), idat) + box(b"mdat", payload)

    return whole(0 if in_meta else len(whole(0)) - len(payload))


@pytest.mark.parametrize(
    "form",
    [{}, {"wide": True}, {"version": 1, "in_meta": True}, {"version": 2, "wide": True, "parts": 5}, {"parts": 3}],
    ids=str,
)
def test_items_of_an_avif_are_found_wherever_they_lie(form):
    found = find_blocks(avif_with_items(**form))
    assert (found.exif, found.xmp) == (EXIF_ITEM[10:], XMP_ITEM)


def test_items_are_what_libavif_gives():
    content = picture("AVIF", xmp=xmp(), exif=exif({0x0131: "Camera"}))
    with Image.open(io.BytesIO(content)) as image:
        info = image.info
    found = find_blocks(content)
    assert (found.exif, found.xmp) == (info["exif"].removeprefix(b"Exif\0\0"), info["xmp"])


def test_an_item_of_too_many_bytes_or_extents_is_not_read():
    iinf = box(b"iinf", bytes(4), struct.pack(">H", 1), box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", 7, 0, b"Exif")))

    def avif(sizes, extents, count):
        iloc = struct.pack(">IHHHHH", 0, sizes, 1, 7, 0, count) + extents
        return Counted(box(b"ftyp", b"avif") + box(b"meta", bytes(4), iinf, box(b"iloc", iloc)) * 50 + bytes(1 << 20))

    twice = avif(0x4400, struct.pack(">II", 0, 600_000) * 2, 2)
    assert find_blocks(twice).exif is None and twice.copied_bytes < len(twice)
    nothing = avif(0x0000, b"", 0xFFFF)  # numbers of no bytes: extents without end
    assert not find_blocks(nothing).exif and nothing.copied_bytes < 10_000


def test_exif_of_an_avif_of_which_each_entry_spans_all_is_read_once():
    size = 1 << 19
    content = picture("AVIF", exif=exif({0x0131: "x" * size}))
    entries = b"".join(struct.pack("<HHII", 0x8000 + i, 7, size, 0) for i in range(200))
    hostile = b"II*\0" + struct.pack("<IH", 8, 200) + entries
    at = content.index(find_blocks(content).exif)
    content = content[:at] + hostile + content[at + len(hostile) :]
    tracemalloc.start()
    try:
        assert find_blocks(content).exif.startswith(hostile)
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


def test_damaged_files_raise_nothing():
    rng = random.Random(4)
    whole = [avif_with_items(version=1, in_meta=True), avif_with_items(parts=3), picture("TIFF", big_tiff=True)]
    whole.append(with_segments(encode(photo(1)), (0xE1, exif({0x0131: "x"}))))
    for content in whole:
        for _ in range(500):
            changed = bytearray(content[: rng.randrange(len(content))] if rng.random() < 0.3 else content)
            for _ in range(rng.randrange(1, 10)):
                if len(changed) > 12:
                    changed[rng.randrange(12, min(len(changed), 600))] = rng.choice([0, 0xFF, rng.randrange(256)])
            find_blocks(bytes(changed))
