"""Files that say something of their origin, as the tests make them: metadata, and C2PA signed with throwaway keys."""

import datetime
import functools
import io
import json
import struct
import zlib
from collections.abc import Sequence

import pytest
from conftest import photo
from PIL import Image, PngImagePlugin

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = "trainedAlgorithmicMedia"

MIME_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}

C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")

# Editors and cameras that sign.
NO_GENERATORS = (
    *("Adobe Photoshop", "Adobe_Photoshop/26.0.0 adobe_c2pa/0.12.2 c2pa-rs/0.32.5", "Adobe Lightroom", "Lightroom"),
    *("Pixel Camera", "Leica", "Leica M11-P", "Truepic", "Truepic_Lens_SDK/4.1", "Image Creator", "OpenAI-APIs"),
)

WEB_UI_TEXT = (
    "a lighthouse at dusk\nNegative prompt: people\n"
    "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234, Size: 512x512, Model: some_model"
)
COMFY_PROMPT = '{"3": {"inputs": {"seed": 8, "steps": 20}, "class_type": "KSampler"}}'
COMFY_WORKFLOW = '{"last_node_id": 9, "nodes": [{"type": "KSampler"}]}'
SWARM_TEXT = '{"sui_image_params": {"prompt": "x", "model": "some_model"}}'


def picture(image_format: str, **options) -> bytes:
    """A small picture with the metadata that Pillow's options name."""
    buffer = io.BytesIO()
    Image.fromarray(photo(1)).save(buffer, image_format, **options)
    return buffer.getvalue()


def png_with_text(*, packed: bool = False, international: bool = False, **text: str) -> bytes:
    """A PNG with text chunks before its pixels."""
    info = PngImagePlugin.PngInfo()
    for keyword, value in text.items():
        (info.add_itxt if international else info.add_text)(keyword, value, zip=packed)
    return picture("PNG", pnginfo=info)


def exif(tags: dict[int, object], comment: bytes | None = None) -> bytes:
    """EXIF with these tags, and a user comment as it is."""
    block = Image.Exif()
    for tag, value in tags.items():
        block[tag] = value
    if comment is not None:
        block.get_ifd(0x8769)[0x9286] = comment
    return block.tobytes()


def xmp(source: str = IPTC + GENERATED, software: str = "", form: str = "attribute") -> bytes:
    """An XMP packet; a property is an attribute, an element, or a reference."""
    tool = f'xmp:CreatorTool="{software}"' if software else ""
    inside = {
        "attribute": (f'iptc:DigitalSourceType="{source}"', ""),
        "element": ("", f"<iptc:DigitalSourceType>{source}</iptc:DigitalSourceType>"),
        "reference": ("", f'<iptc:DigitalSourceType rdf:resource="{source}"/>'),
        "alternatives": (
            "",
            f"<iptc:DigitalSourceType><rdf:Alt><rdf:li>{source}</rdf:li></rdf:Alt></iptc:DigitalSourceType>",
        ),
    }[form]
    return f"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" {tool} {inside[0]}>{inside[1]}</rdf:Description>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>""".encode()


def chunk(kind: bytes, payload: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def box(kind: bytes, *payloads: bytes) -> bytes:
    """A box of an AVIF, or of a C2PA store."""
    payload = b"".join(payloads)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def after_pixels(content: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks between its pixels and its end, where exiftool writes."""
    return content[:-12] + b"".join(chunks) + content[-12:]


def with_segments(content: bytes, *payloads: tuple[int, bytes]) -> bytes:
    """A JPEG with segments (marker, payload) behind its start."""
    segments = (struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in payloads)
    return content[:2] + b"".join(segments) + content[2:]


@functools.lru_cache
def _signer() -> tuple[bytes, bytes]:
    """A certificate chain and a key, in PEM, that nobody knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Nobody")]
        )
        for name in ("Root", "Signer")
    ]

    def certificate(i: int, authority: bool) -> bytes:
        usage = [not authority, *[False] * 4, authority, authority, False, False]
        builder = (
            x509.CertificateBuilder(names[0], names[i], keys[i].public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.KeyUsage(*usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[i].public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if not authority:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purposes, critical=False)
        return builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate(1, False) + certificate(0, True), key


def anchor() -> str:
    """The certificate, in PEM, of who vouches for the signer of all manifests that are made here."""
    return _signer()[0].decode().partition("-----END CERTIFICATE-----\n")[2]


@functools.lru_cache
def signed(image_format: str, source: str = GENERATED, software: str = "Test Generator") -> bytes:
    """A picture with a C2PA manifest, made and signed by the official library."""
    return sign(image_format, software, {"action": "c2pa.created", "digitalSourceType": IPTC + source})


def sign(
    image_format: str,
    software: str,
    *actions: dict,
    version: int = 2,
    ingredient: bytes | None = None,
    relationship: str = "parentOf",
    assertions: Sequence[dict] = (),
    settings: dict | None = None,
) -> bytes:
    """A picture with a C2PA manifest of these actions, or of none; an ingredient is a file of the same format.

    Args:
        version: of the claim. One of the second must have an action that says how the picture came to be.
        assertions: further ones.
        settings: the library's, while it signs.
    """
    c2pa = pytest.importorskip("c2pa", reason="pip install c2pa-python")
    chain, key = _signer()
    manifest = {
        "claim_version": version,
        "claim_generator_info": [{"name": software, "version": "1"}],
        "assertions": [*([{"label": "c2pa.actions.v2", "data": {"actions": actions}}] if actions else []), *assertions],
    }
    builder = c2pa.Builder(manifest, context=c2pa.Context.from_dict(settings or {}))
    mime_type = MIME_TYPES[image_format]
    if ingredient is not None:
        about = {"title": "before", "relationship": relationship, "instance_id": "before", "label": "before"}
        builder.add_ingredient(json.dumps(about), mime_type, io.BytesIO(ingredient))
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, key, None))
    target = io.BytesIO()
    builder.sign(signer, mime_type, io.BytesIO(picture(image_format)), target)
    return target.getvalue()
