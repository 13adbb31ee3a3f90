"""C2PA manifests that the official library made: read with it, read without it, changed, and hostile."""

import json
import os
import random
import socket
import ssl
import struct
import subprocess
import sys

import pytest
from conftest import ROOT, encode, photo
from declared import (
    GENERATED,
    IPTC,
    MIME_TYPES,
    NO_GENERATORS,
    anchor,
    box,
    chunk,
    picture,
    sign,
    signed,
    with_segments,
)
from faults import noting_proxy

from mdmf_ops.provenance import Signature, blocks, check_anchors, declaration, jumbf, read_declaration, signature
from mdmf_ops.provenance.blocks import find_blocks
from mdmf_ops.provenance.claim import MAX_PARENTS
from mdmf_ops.provenance.jumbf import read_claim

HASH_URL = "self#jumbf=c2pa.assertions/c2pa.hash.data"

every_format = pytest.mark.parametrize("image_format", MIME_TYPES)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(signature, "_library", lambda _anchors: None)


@every_format
def test_an_unbroken_signature_of_nobody_known_is_valid_and_not_trusted(image_format):
    declaration = read_declaration(signed(image_format))
    assert (declaration.source, declaration.by, declaration.software) == (GENERATED, "c2pa", "Test Generator")
    assert declaration.c2pa_signature is Signature.VALID


@every_format
def test_a_signature_that_leads_to_a_trust_anchor_is_trusted(image_format):
    content, others = signed(image_format), ssl.create_default_context().get_ca_certs(binary_form=True)
    strangers = "".join(map(ssl.DER_cert_to_PEM_cert, others[:3]))
    said = read_declaration(content, strangers + anchor())
    assert (said.c2pa_signature, said.source) == (Signature.TRUSTED, GENERATED)
    assert read_declaration(content.replace(b"Test", b"Tost"), anchor()).c2pa_signature is Signature.INVALID
    assert read_declaration(content, strangers or None).c2pa_signature is Signature.VALID
    assert read_declaration(content).c2pa_signature is Signature.VALID  # nothing is left of what was trusted before


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n", "Zertifikat für Nobody"],
)
def test_what_is_no_certificate_is_no_trust_anchor(text):
    with pytest.raises(ValueError, match="no certificates in PEM"):
        check_anchors(text)
    with pytest.raises(ValueError, match="no certificates in PEM"):
        check_anchors(text + anchor() + anchor()[:-40])
    check_anchors(f"# für alle\n{anchor() * 2}")


def test_without_the_library_nobody_can_be_trusted(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ValueError, match=r"mdmf-ops\[c2pa\]"):
        check_anchors(anchor())


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
    monkeypatch.setattr(signature, "_library", lambda _anchors: None)
    without = read_declaration(content)
    assert with_library.source == without.source == "digitalCapture"
    assert with_library.software == without.software == "Camera"


@pytest.fixture(params=["library", "no library"])
def either_reader(request, monkeypatch):
    if request.param == "no library":
        monkeypatch.setattr(signature, "_library", lambda _anchors: None)


def test_a_service_that_signs_is_a_generator_where_no_source_type_is_said(either_reader):
    content = sign("PNG", "ChatGPT", version=1, ingredient=picture("PNG"))
    said = read_declaration(content)
    assert (said.source, said.by, said.software) == (GENERATED, "c2pa", "ChatGPT")


@pytest.mark.parametrize("agent", ["Bing Image Creator", {"name": "Adobe_Firefly"}, {"version": "3", "name": "DALL·E"}])
def test_the_software_agent_of_an_action_may_be_a_generator(agent, either_reader):
    action = {"action": "c2pa.created", "description": "AI Generated Image", "softwareAgent": agent}
    said = read_declaration(sign("JPEG", "Provenance Service", {"action": "c2pa.resized"}, action, version=1))
    assert (said.source, said.by, said.software) == (GENERATED, "c2pa", "Provenance Service")


@pytest.mark.parametrize("name", NO_GENERATORS)
def test_an_editor_or_a_camera_that_signs_is_no_generator(name, either_reader):
    actions = [{"action": "c2pa.created", "softwareAgent": agent} for agent in (name, {"name": name})]
    said = read_declaration(sign("PNG", name, *actions, version=1))
    assert (said.source, said.by, said.software) == (None, None, name)


def test_an_edit_by_a_generator_is_no_generated_image(either_reader):
    said = read_declaration(
        sign("PNG", "Editor", {"action": "c2pa.edited", "softwareAgent": "Adobe Firefly"}, version=1)
    )
    assert said.source is None


@pytest.mark.parametrize("agent", ["Leica M11-P", {"name": "Leica M11-P"}, None])
@pytest.mark.parametrize("edits", [1, 2])
def test_an_edit_by_a_generator_makes_no_other_action_its_own(agent, edits, either_reader):
    created = {"action": "c2pa.created"} | ({"softwareAgent": agent} if agent else {})
    edited = {"action": "c2pa.edited", "softwareAgent": "Adobe Firefly"}
    for actions in ([created] + [edited] * edits, [edited] * edits + [created]):
        assert read_declaration(sign("JPEG", "Editor", *actions, version=1)).source is None


def test_a_generator_that_created_is_found_among_other_actions(either_reader):
    cut = {"action": "c2pa.cropped", "softwareAgent": "Editor"}
    created = {"action": "c2pa.created", "when": "2026-01-01T00:00:00Z", "softwareAgent": {"name": "Adobe Firefly"}}
    assert read_declaration(sign("JPEG", "Editor", cut, created, cut, version=1)).source == GENERATED


def test_a_source_type_counts_before_a_name(either_reader):
    action = {"action": "c2pa.created", "digitalSourceType": IPTC + "digitalCapture", "softwareAgent": "Adobe Firefly"}
    assert read_declaration(sign("PNG", "ChatGPT", action)).source == "digitalCapture"


OPENED = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["before"]}}


def edit(content, times=1, version=2):
    """The same edited again, by claims that say nothing of its source."""
    for i in range(times):
        actions = [OPENED] if version == 2 else []
        content = sign("PNG", f"Editor {i}", *actions, version=version, ingredient=content)
    return content


@pytest.mark.parametrize("source", [GENERATED, "compositeWithTrainedAlgorithmicMedia"])
@pytest.mark.parametrize("times", [1, 2, MAX_PARENTS])
@pytest.mark.parametrize("version", [1, 2])
def test_an_edit_of_a_generated_image_is_generated(source, times, version, either_reader):
    generated = sign("PNG", "Maker", {"action": "c2pa.created", "digitalSourceType": IPTC + source}, version=version)
    said = read_declaration(edit(generated, times, version))
    assert (said.source, said.by, said.software) == (source, "c2pa", f"Editor {times - 1}")


def test_a_parent_that_a_generator_signed_counts_too(either_reader):
    action = {"action": "c2pa.created", "softwareAgent": {"name": "DALL·E 3"}}
    assert read_declaration(edit(sign("PNG", "A Service", action, version=1), version=1)).source == GENERATED


def test_an_edit_of_a_photograph_may_be_anything(either_reader):
    assert read_declaration(edit(signed("PNG", "digitalCapture"))).source is None


def test_what_is_a_mere_part_or_far_back_is_not_what_the_image_is(either_reader):
    part = sign("PNG", "Maker", {"action": "c2pa.created", "digitalSourceType": IPTC + GENERATED}, version=1)
    collage = sign("PNG", "Editor", version=1, ingredient=part, relationship="componentOf")
    assert read_declaration(collage).source is None
    assert read_declaration(edit(signed("PNG"), times=MAX_PARENTS + 1)).source is None


@pytest.mark.parametrize(
    "source",
    ["minorHumanEdits", "humanEdits", "algorithmicallyEnhanced", "composite", "screenCapture", "digitalCapture"],
)
def test_an_edit_that_says_what_it_is_hides_no_generated_parent(source, either_reader):
    edited = {"action": "c2pa.edited", "digitalSourceType": IPTC + source}
    content = sign("PNG", "Editor", OPENED, edited, ingredient=signed("PNG"))
    for further in (0, 1):
        assert read_declaration(edit(content, further)).source == GENERATED


def test_an_edit_that_says_what_it_is_keeps_that_of_a_photograph(either_reader):
    edited = {"action": "c2pa.edited", "digitalSourceType": IPTC + "minorHumanEdits"}
    content = sign("PNG", "Editor", OPENED, edited, ingredient=signed("PNG", "digitalCapture"))
    assert read_declaration(content).source == "minorHumanEdits"


def test_a_changed_parent_breaks_the_signature():
    action = {"action": "c2pa.created", "softwareAgent": "Some Camera"}
    content = edit(sign("PNG", "A Service", action, version=1), version=1)
    store = find_blocks(content).c2pa
    changed = content.replace(chunk(b"caBX", store), chunk(b"caBX", store.replace(b"Some Camera", b"DALL-E 3   ")))
    assert read_declaration(content).c2pa_signature is Signature.VALID
    assert read_declaration(changed).c2pa_signature is Signature.INVALID


def superbox(label, *inside):
    return box(b"jumb", box(b"jumd", bytes(16) + b"\3" + label.encode() + b"\0") + b"".join(inside))


def cbor(text):
    return (bytes([0x60 + len(text)]) if len(text) < 24 else bytes([0x78, len(text)])) + text.encode()


def made_from(label, *parents):
    """A manifest without a source type, by hand, that was made from others."""
    urls = [b"\xa1" + cbor("url") + cbor(f"self#jumbf=/c2pa/{parent}") for parent in parents]
    says = [cbor("relationship") + cbor("parentOf") + cbor("c2pa_manifest") + url for url in urls]
    boxes = [superbox("c2pa.ingredient.v2", box(b"cbor", b"\xa2" + each)) for each in says]
    return superbox(label, superbox("c2pa.assertions", *boxes), superbox("c2pa.claim", box(b"cbor", CLAIM)))


CLAIM = b"\xa1" + cbor("claim_generator") + cbor("Editor")


@pytest.mark.parametrize(
    ("manifests", "read"),
    [
        ([("a", ["a"])], 1),
        ([("a", ["b"]), ("b", ["a"])], 2),
        ([("a", ["a"]), ("a", ["a"])], 1),
        ([("a", ["b", "c"]), ("b", ["c"]), ("c", ["nowhere"])], 1),
        ([(f"m{i}", [f"m{i - 1}"] * 50) for i in range(500)], 1 + MAX_PARENTS),
    ],
    ids=["itself", "each other", "of one name", "nowhere", "a long line"],
)
def test_manifests_that_name_each_other_are_read_once_and_to_a_bound(manifests, read, monkeypatch):
    places, real = [], jumbf._read_manifest
    monkeypatch.setattr(jumbf, "_read_manifest", lambda manifest: places.append(bytes(manifest)) or real(manifest))
    store = superbox("c2pa", *(made_from(label, *parents) for label, parents in manifests))
    assert read_claim(store) == ([], "Editor")
    assert len(places) == len(set(places)) == read


def test_software_agents_without_number_are_looked_at_to_a_bound():
    created = cbor("action") + cbor("c2pa.created") + cbor("softwareAgent")
    agents = (created + cbor("Editor")) * 100_000 + created + cbor("ChatGPT")
    actions = superbox("c2pa.actions.v2", box(b"cbor", agents))
    store = superbox("c2pa", superbox("a", superbox("c2pa.assertions", actions)))
    assert read_claim(store) == ([], None)


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
    monkeypatch.setattr(blocks, "_MAX_MANIFEST_BYTES", 100)
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
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"softwareAgent": 7}, {"softwareAgent": {"name": ["ChatGPT"]}}]},
        },
        "c2pa.actions",
    ],
    ids=str,
)
def test_a_manifest_of_an_unexpected_shape_keeps_its_signature_and_the_other_marks(assertion, monkeypatch):
    content = signed("PNG")
    state, [manifest] = signature.check_signature(content, "image/png")
    checked = signature.Checked(state, [manifest | {"assertions": [assertion]}])
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
    state, [manifest] = signature.check_signature(content, "image/png")
    checked = signature.Checked(state, [manifest | {"claim_generator_info": info, "claim_generator": "Old 1.0"}])
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


@pytest.mark.parametrize("edits", [0, 2])
def test_damaged_stores_raise_nothing(edits):
    rng = random.Random(2)
    store = find_blocks(edit(signed("PNG"), edits)).c2pa
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


CREATED = {"action": "c2pa.created", "digitalSourceType": IPTC + "digitalCapture"}

CHECK = """
import sys
from mdmf_ops.provenance import read_declaration
print(read_declaration(open(sys.argv[1], "rb").read()).c2pa_signature.value)
"""


def test_the_issuer_of_an_identity_is_not_asked_and_breaks_no_signature(tmp_path):
    asset = {"referenced_assertions": [], "sig_type": "cawg.identity_claims_aggregation"}
    credential = {
        "@context": ["https://www.w3.org/ns/credentials/v2", "https://cawg.io/identity/1.1/ica/context/"],
        "type": ["VerifiableCredential", "IdentityClaimsAggregationCredential"],
        "issuer": "did:web:issuer.invalid",
        "validFrom": "2026-01-01T00:00:00Z",
        "credentialSubject": {
            "verifiedIdentities": [
                {
                    **{"type": "cawg.social_media", "username": "x", "uri": "https://a.invalid/x"},
                    **{"verifiedAt": "2026-01-01T00:00:00Z", "provider": {"id": "https://a.invalid", "name": "a"}},
                }
            ],
            "c2paAsset": {**asset, "referenced_assertions": [{"url": HASH_URL, "hash": "AA=="}]},
        },
    }
    payload = json.dumps(credential).encode()
    # COSE_Sign1: EdDSA, of a credential, and 64 bytes where a signature would be.
    head = bytes([0xA2, 1, 0x27, 3, 0x6E]) + b"application/vc"
    cose = bytes([0xD2, 0x84, 0x40 + len(head)]) + head + b"\xa0\x59" + struct.pack(">H", len(payload)) + payload
    identity = {
        "signer_payload": {**asset, "referenced_assertions": [{"url": HASH_URL, "hash": [0] * 32}]},
        "signature": [*cose, 0x58, 64, *bytes(64)],
        "pad1": [0],
    }
    (tmp_path / "a.png").write_bytes(
        sign("PNG", "Camera", CREATED, assertions=[{"label": "cawg.identity", "data": identity}])
    )
    with noting_proxy() as (proxied, asked):
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(tmp_path / "a.png")],
            env=os.environ | proxied,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
        )
    assert asked == []
    assert (done.stdout, done.returncode) == ("valid\n", 0), done.stderr


def test_a_fork_checks_what_its_parent_has_checked(tmp_path):
    (tmp_path / "a.png").write_bytes(signed("PNG"))
    script = f"import os\n{CHECK}\nif os.fork():\n    os.wait()\nelse:\n    {CHECK.splitlines()[-1]}"
    command = [sys.executable, "-u", "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.stdout.split(), done.returncode) == (["valid", "valid"], 0), done.stderr


def test_a_packed_manifest_is_not_unpacked():
    packed = sign("PNG", "Camera", CREATED, settings={"core": {"prefer_compress_manifests": True}})
    assert b"brob" in packed
    said = read_declaration(packed)
    assert (said.c2pa_signature, said.source) == (Signature.UNCHECKED, None)
    # What is merely damaged is not packed.
    damaged = packed.replace(b"brob", b"borb")
    assert read_declaration(damaged).c2pa_signature is Signature.INVALID


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
