"""C2PA manifests that the official library made: read with it, read without it, changed, and hostile."""

import random
import socket
import struct
import subprocess
import sys

import pytest
from conftest import ROOT, encode, photo
from declared import GENERATED, MIME_TYPES, chunk, picture, signed, with_segments

from mdmf_ops.provenance import Signature, blocks, declaration, read_declaration, signature
from mdmf_ops.provenance.blocks import find_blocks
from mdmf_ops.provenance.jumbf import read_claim

every_format = pytest.mark.parametrize("image_format", MIME_TYPES)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(signature, "_library", lambda: None)


@every_format
def test_an_unbroken_signature_of_nobody_known_is_valid_and_not_trusted(image_format):
    declaration = read_declaration(signed(image_format))
    assert (declaration.source, declaration.by, declaration.software) == (GENERATED, "c2pa", "Test Generator")
    assert declaration.c2pa_signature is Signature.VALID


@every_format
def test_without_the_library_the_same_is_said_and_nobody_vouches(image_format, no_library):
    declaration = read_declaration(signed(image_format, "compositeWithTrainedAlgorithmicMedia", "Ünïcode " * 40))
    assert (declaration.source, declaration.by) == ("compositeWithTrainedAlgorithmicMedia", "c2pa")
    assert declaration.software == ("Ünïcode " * 40)[:120].strip()
    assert declaration.c2pa_signature is Signature.UNCHECKED


@every_format
def test_both_readers_say_the_same_of_a_camera(image_format, monkeypatch):
    content = signed(image_format, "digitalCapture", "Camera")
    with_library = read_declaration(content)
    monkeypatch.setattr(signature, "_library", lambda: None)
    without = read_declaration(content)
    assert with_library.source == without.source == "digitalCapture"
    assert with_library.software == without.software == "Camera"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_changed_pixel_or_claim_breaks_the_signature(image_format):
    content = signed(image_format)
    place = len(content) - 50 if image_format == "JPEG" else content.index(b"IDAT") + 50
    pixel = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    claim = content.replace(b"Test Generator", b"Best Generator")
    assert read_declaration(pixel).c2pa_signature is Signature.INVALID
    assert read_declaration(claim).c2pa_signature is Signature.INVALID
    assert read_declaration(claim).software == "Best Generator"


def test_a_manifest_over_several_segments_of_a_jpeg_is_put_together():
    store = find_blocks(signed("PNG")).c2pa
    cut = [store[8 + i : 8 + i + 1000] for i in range(0, len(store) - 8, 1000)]
    segments = [
        (0xEB, b"JP\0\x05" + struct.pack(">I", number) + store[:8] + piece) for number, piece in enumerate(cut, 1)
    ]
    other = (0xEB, b"JP\0\x06" + struct.pack(">I", 1) + struct.pack(">I4s", 30, b"jumb") + bytes(22))
    for order in (segments, segments[::-1]):
        content = with_segments(encode(photo(1)), other, *order)
        assert find_blocks(content).c2pa == store
    assert read_claim(store).sources == [GENERATED]


def test_a_manifest_of_another_picture_is_not_valid_here():
    store = find_blocks(signed("PNG")).c2pa
    content = encode(photo(2), "PNG")
    moved = content[:33] + chunk(b"caBX", store) + content[33:]
    declaration = read_declaration(moved)
    assert (declaration.source, declaration.c2pa_signature) == (GENERATED, Signature.INVALID)


def test_a_manifest_too_large_to_read_is_one_all_the_same(monkeypatch, no_library):
    monkeypatch.setattr(blocks, "MAX_MANIFEST_BYTES", 100)
    for image_format in ("JPEG", "PNG", "WEBP", "AVIF"):
        declaration = read_declaration(signed(image_format))
        assert (declaration.source, declaration.c2pa_signature) == (None, Signature.UNCHECKED)


@pytest.mark.parametrize(
    "assertion",
    [
        {"label": "c2pa.actions.v2", "data": ["x"]},
        {"label": "c2pa.actions.v2", "data": None},
        {"label": "c2pa.actions", "data": {"actions": 7}},
        {"label": "c2pa.actions", "data": {"actions": ["x"]}},
        "c2pa.actions",
    ],
    ids=str,
)
def test_a_manifest_of_an_unexpected_shape_keeps_its_signature_and_the_other_marks(assertion, monkeypatch):
    content = signed("PNG")
    state, manifest = signature.check_signature(content, "image/png")
    checked = signature.Checked(state, manifest | {"assertions": [assertion]})
    monkeypatch.setattr(declaration, "check_signature", lambda *_: checked)
    marked = content[:33] + chunk(b"tEXt", b"Software\0Midjourney") + content[33:]
    said = read_declaration(marked)
    assert (said.source, said.by, said.software) == (GENERATED, "text", "Midjourney")
    assert said.c2pa_signature is Signature.VALID


@pytest.mark.parametrize(
    ("info", "software"),
    [
        ([{"name": "A"}], "A"),
        ([{"version": "1"}], "Old 1.0"),
        ([{"version": "1"}, {"name": "B"}], "B"),
        (None, "Old 1.0"),
    ],
)
def test_a_claim_that_names_no_generator_falls_back_to_its_older_field(info, software, monkeypatch):
    content = signed("PNG")
    state, manifest = signature.check_signature(content, "image/png")
    checked = signature.Checked(state, manifest | {"claim_generator_info": info, "claim_generator": "Old 1.0"})
    monkeypatch.setattr(declaration, "check_signature", lambda *_: checked)
    assert read_declaration(content).software == software


def test_an_avif_without_a_readable_picture_keeps_its_manifest(no_library):
    content = signed("AVIF")
    at = content.index(b"meta")
    broken = content[:at] + b"free" + content[at + 4 :]
    said = read_declaration(broken)
    assert (said.source, said.c2pa_signature) == (GENERATED, Signature.UNCHECKED)


@pytest.mark.parametrize("store", [b"", b"jumb", bytes(100), b"\0\0\0\1jumb" + bytes(8), b"\xff" * 200])
def test_a_store_that_is_none_claims_nothing(store):
    assert read_claim(store) == ([], None)


def test_damaged_stores_raise_nothing():
    rng = random.Random(2)
    store = find_blocks(signed("PNG")).c2pa
    for _ in range(2000):
        damaged = bytearray(store[: rng.randrange(len(store))] if rng.random() < 0.3 else store)
        for _ in range(rng.randrange(1, 10)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 0xFF, rng.randrange(256)])
        claim = read_claim(bytes(damaged))
        assert all(source.isalpha() for source in claim.sources) and len(claim.software or "") <= 1000


@every_format
def test_the_library_stands_changed_files(image_format):
    rng = random.Random(3)
    content = signed(image_format)
    start = max(content.find(b"jumb") - 40, 0)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(start, min(start + 12_000, len(damaged)))] = rng.choice([0, 0xFF, rng.randrange(256)])
        assert read_declaration(bytes(damaged)).c2pa_signature in (*Signature, None)


def test_a_manifest_that_lies_elsewhere_is_not_fetched(monkeypatch):
    signed("JPEG")  # signs, and loads the library
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/manifest.c2pa"
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        content = picture("JPEG", xmp=packet.encode())
        assert read_declaration(content).c2pa_signature is None
        signature.check_signature(content, "image/jpeg")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_library_is_loaded_with_the_first_manifest_and_not_before():
    script = """
import sys
from mdmf_ops.provenance import read_declaration
read_declaration(open(sys.argv[1], "rb").read())
print("c2pa" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(ROOT / "samples/real/cat.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
