"""Small files of every kind that is known to hurt a reader of images, each with the code that it must get.

They are made here, byte by byte, so that nobody has to trust a blob:

    python tests/corpus/make.py FOLDER     writes them all, and expected.csv
"""

import csv
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).parent.parent)]

from corpus.odd import odd_cases  # noqa: E402
from corpus.parts import (  # noqa: E402
    SCORED,
    Case,
    box,
    chunk,
    encode,
    flat_png,
    grey_tiff,
    picture,
    png,
    riff,
    segment,
    tiff,
)


def not_images() -> Iterator[Case]:
    yield "empty.jpg", b"", "empty"
    starts = {
        "text.jpg": b"this is no image at all\n" * 9,
        "page.png": b"<!doctype html><script>alert(1)</script>",
        "vector.svg": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\n",
        "dos.eps": b"\xc5\xd0\xd3\xc6" + bytes(40),
        "sky.fits": b"SIMPLE  =                    T" + b" " * 50 + b"BITPIX  =                    8" + b" " * 50,
        "page.pdf": b"%PDF-1.7\n",
        "archive.zip": b"PK\3\4" + bytes(40),
        "phone.heic": box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(40),
        "grid.heic": box(b"ftyp", b"mif1\0\0\0\0mif1heic") + box(b"meta", bytes(200)),
        "old.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "pickle.jpg": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x94.",
        "wave.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "zeros.tiff": bytes(1000),
        "noise.bin": np.random.default_rng(4).bytes(3000),
        "almost.gif": b"GIF90a" + bytes(40),
    }
    yield from ((name, content, "unsupported_format") for name, content in starts.items())


def wrong_names() -> Iterator[Case]:
    """Names that lie, and files that are two things at once: the content's start decides."""
    yield "jpeg.png", encode(picture(), "JPEG"), SCORED
    yield "png.jpg", encode(picture(), "PNG"), SCORED
    yield "gif.html", encode(picture(), "GIF"), SCORED
    yield "jpeg-and-zip.jpg", encode(picture(), "JPEG") + b"PK\3\4" + bytes(30) + b"PK\5\6" + bytes(18), SCORED
    yield "png-and-page.png", encode(picture(), "PNG") + b"<script>alert(1)</script>", SCORED
    yield "gif-and-script.gif", encode(picture(), "GIF") + b"*/=1;alert(1)", SCORED
    yield "bmp-and-pdf.bmp", encode(picture(64, 64), "BMP") + b"%PDF-1.7", SCORED
    yield "page-and-jpeg.html", b"<html>" + encode(picture(), "JPEG"), "unsupported_format"


def cuts() -> Iterator[Case]:
    """Cut right behind every marker or chunk head, and amid what follows."""
    files = {
        "jpeg": encode(picture(), "JPEG", quality=60, restart_marker_rows=2),
        "progressive": encode(picture(), "JPEG", quality=60, progressive=True),
        "png": encode(picture(64, 64), "PNG"),
        "webp": encode(picture(), "WEBP", quality=50),
        "avif": encode(picture(), "AVIF", quality=50),
    }
    for name, content in files.items():
        if name in ("jpeg", "progressive"):
            ends = [i + 2 for i in range(2, len(content) - 2) if content[i] == 255 and content[i + 1] > 1]
            ends += [end + 8 for end in ends]
        else:
            ends = list(range(16, len(content) - 8, len(content) // 10))
        for number, end in enumerate(sorted({end for end in ends if end < len(content) - 2})):
            yield f"cut-{number:02}.{name}", content[:end], "truncated"
    jpeg, progressive, lossless = files["jpeg"], files["progressive"], files["png"]
    for share in (2, 3, 4):
        yield f"early-end-{share}.jpg", jpeg[: -len(jpeg) // share].rstrip(b"\xff") + b"\xff\xd9", "truncated"
        yield f"early-end-{share}.progressive", progressive[: -len(progressive) // share] + b"\xff\xd9", "truncated"
        for name in ("webp", "avif"):
            whole = files[name]
            yield f"padded-{share}.{name}", whole[: -len(whole) // share].ljust(len(whole), b"\0"), "truncated"
    yield "short-stream.png", png(64, 64, (b"\0" + bytes(192)) * 32), "truncated"
    yield "one-row-short.png", png(64, 64, (b"\0" + b"x" * 192) * 63), "truncated"
    yield "no-end.png", lossless[:-12], SCORED  # with every pixel
    yield "nearly-no-pixels.png", lossless[:-17], "truncated"
    yield "zeros-for-the-end.png", lossless[:-12] + bytes(12), SCORED
    yield "no-data.png", lossless[:33] + chunk(b"IEND", b""), "corrupt"
    yield "half.bmp", encode(picture(64, 64), "BMP")[:9000], "truncated"
    yield "half.gif", encode(picture(), "GIF")[:3000], "truncated"
    yield "half.tiff", encode(picture(), "TIFF")[:9000], "truncated"


def bombs() -> Iterator[Case]:
    yield "13000x13000.png", flat_png(13_000, 13_000), "too_many_pixels"
    yield "40000x70.png", flat_png(40_000, 70), "side_too_long"
    yield "1x30000.png", flat_png(1, 30_000), "too_small"
    yield "30000x1.png", flat_png(30_000, 1), "too_small"
    yield "63x64.png", flat_png(63, 64), "too_small"
    yield "2-to-31.png", png(2**31 - 1, 2**31 - 1, b"", depth=1, colour=0), "side_too_long"
    jpeg = encode(picture(), "JPEG", quality=40)
    size = struct.pack(">HH", 80, 96)
    yield "65500x65500.jpg", jpeg.replace(size, struct.pack(">HH", 65_500, 65_500)), "side_too_long"
    yield "lying-size.jpg", jpeg.replace(size, struct.pack(">HH", 8000, 9000)), "truncated"
    yield "no-height.jpg", jpeg.replace(size, struct.pack(">HH", 0, 96)), "corrupt"
    gif = encode(picture(), "GIF")
    yield "65535x65535.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "side_too_long"
    yield "lying-frame.gif", gif.replace(b",\0\0\0\0\x60\0\x50\0", b",\0\0\0\0\xff\xff\xff\xff"), "too_many_pixels"
    yield (
        "frame-outside.gif",
        gif.replace(b",\0\0\0\0\x60\0\x50\0", b",\xf0\xff\xf0\xff\x60\0\x50\0"),
        "too_many_pixels",
    )
    bmp = encode(picture(64, 64), "BMP")
    for name, width, height, code in (
        ("20000x20000.bmp", 20_000, 20_000, "too_many_pixels"),
        ("negative-width.bmp", -96, 80, "side_too_long"),
        ("zero.bmp", 0, 0, "corrupt"),
        ("least-height.bmp", 96, -(2**31), "side_too_long"),
    ):
        yield name, bmp[:18] + struct.pack("<ii", width, height) + bmp[26:], code
    webp = encode(picture(), "WEBP", lossless=True)
    yield "zero.png", png(0, 0, b""), "corrupt"
    extended = riff((b"VP8X", bytes(4) + b"\xff\x3f\0" * 2), (b"VP8L", webp[20:]))
    yield "lying-canvas.webp", extended, "too_many_pixels"
    yield "nonsense.webp", riff((b"VP8 ", bytes(40))), "corrupt"
    yield "no-picture.webp", riff((b"EXIF", bytes(40))), "corrupt"


def jpegs() -> Iterator[Case]:
    """Odd kinds of JPEG."""
    jpeg, progressive = (encode(picture(), "JPEG", quality=40, progressive=flag) for flag in (False, True))
    scan = progressive.rindex(b"\xff\xda")
    last = progressive[scan:-2]
    yield "1000-scans.jpg", progressive[:-2] + (last[:14] + b"\0") * 1000 + b"\xff\xd9", "too_many_scans"
    frame = jpeg.index(b"\xff\xc0")
    yield "12-bit.jpg", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :], "unsupported_pixels"
    for name, marker, code in (
        ("lossless.jpg", 0xC3, "unsupported_pixels"),
        ("hierarchical.jpg", 0xC5, "unsupported_pixels"),
        ("arithmetic-noise.jpg", 0xC9, SCORED),  # whatever the bytes, they are arithmetic code
        ("reserved.jpg", 0xC8, "corrupt"),
    ):
        yield name, jpeg[: frame + 1] + bytes([marker]) + jpeg[frame + 2 :], code
    yield "two-frames.jpg", jpeg[:frame] + jpeg[frame : frame + 19] + jpeg[frame:], "corrupt"
    yield "two-components.jpg", jpeg[: frame + 9] + b"\2" + jpeg[frame + 10 :], "corrupt"
    yield "no-tables.jpg", jpeg.replace(b"\xff\xc4", b"\xff\xec"), SCORED  # with the standard's, as in Motion JPEG
    yield "tables-of-zeros.jpg", jpeg.replace(b"\xff\xdb\0\x43\0", b"\xff\xdb\0\x43\0" + bytes(3), 1), SCORED
    yield "cmyk.jpg", encode(Image.fromarray(picture()).convert("CMYK"), "JPEG"), SCORED
    yield "grey.jpg", encode(picture()[:, :, 0].copy(), "JPEG"), SCORED
    yield "stray-bytes.jpg", jpeg[:-2] + b"stray" + jpeg[-2:], SCORED
    yield "fill-bytes.jpg", jpeg[:2] + b"\xff" * 300 + jpeg[2:], SCORED
    yield "end-in-comment.jpg", jpeg[:2] + segment(0xFE, b"\xff\xd9" * 9) + jpeg[2:], SCORED
    yield "start-only.jpg", b"\xff\xd8\xff", "truncated"
    yield "segments-without-end.jpg", b"\xff\xd8" + b"\xff\xfe\0\2" * 20_001, "too_much_metadata"


def metadata() -> Iterator[Case]:
    jpeg = encode(picture(64, 64), "JPEG", quality=40)
    bomb = zlib.compress(bytes(3 << 20), 9)
    flat = {"width": 64, "height": 64}
    yield "text-bomb.png", flat_png(**flat, before=chunk(b"zTXt", b"a\0\0" + bomb)), SCORED
    international = chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)
    yield "international-text-bomb.png", flat_png(**flat, before=international), SCORED
    yield "text-bomb-behind.png", flat_png(**flat, after=chunk(b"zTXt", b"a\0\0" + bomb)), SCORED
    yield "profile-bomb.png", flat_png(**flat, before=chunk(b"iCCP", b"a\0\0" + bomb)), SCORED
    yield "no-profile.png", flat_png(**flat, before=chunk(b"iCCP", b"a\0\0junk")), SCORED
    yield "empty-chunks.png", flat_png(**flat, before=chunk(b"teXt", b"") * 20_001), "too_much_metadata"
    yield "lying-chunk.png", flat_png(**flat, before=b"\x7f\xff\xff\xfftEXta\0b"), "corrupt"
    yield "unknown-critical.png", flat_png(**flat, before=chunk(b"ABCD", b"")), SCORED
    yield "bad-checksum.png", flat_png(**flat)[:-20] + bytes(4) + flat_png(**flat)[-16:], "corrupt"
    overlapping = tiff([(40_000 + i, 1, 60_000, 8) for i in range(300)])
    for name, exif in {
        "overlapping": overlapping,
        "cyclic": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIII", 0x8769, 4, 1, 8, 8),
        "far-away": b"II*\0\xff\xff\xff\xff",
        "too-many": b"II*\0\x08\0\0\0\xff\xff" + bytes(20),
        "of-no-order": b"XX*\0\x08\0\0\0",
    }.items():
        yield f"exif-{name}.jpg", jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif[:65_000]) + jpeg[2:], SCORED
        yield f"exif-{name}.png", flat_png(**flat, before=chunk(b"eXIf", exif[:65_000])), SCORED
    named = segment(0xE1, b"Exif\0\0" * 10)
    yield "exif-named-often.jpg", jpeg[:2] + named + jpeg[2:], SCORED
    yield "profile-of-255-parts.jpg", jpeg[:2] + segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(9)) * 9 + jpeg[2:], SCORED
    yield "photoshop-nonsense.jpg", jpeg[:2] + segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff") + jpeg[2:], SCORED
    yield "adobe-of-no-kind.jpg", jpeg[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\xff") + jpeg[2:], SCORED
    yield "lying-segment.jpg", jpeg[:2] + b"\xff\xe1\xff\xffshort" + jpeg[2:], "truncated"
    yield "segment-of-no-size.jpg", jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:], SCORED
    gif = encode(picture(64, 64), "GIF")
    start = gif.index(b",\0\0\0\0")
    yield "comments.gif", gif[:start] + b"!\xfe" + b"\1x" * 20_001 + b"\0" + gif[start:], "too_much_metadata"
    yield "endless-comment.gif", gif[:start] + b"!\xfe" + b"\xffx" * 9, "truncated"


def tiffs() -> Iterator[Case]:
    yield "plain.tiff", grey_tiff(), SCORED
    tags = {256: 80, 257: 64, 258: 8, 259: 1, 262: 1, 273: "pixels", 278: 64, 279: 5120}
    entries = [(tag, 4, 1, value) for tag, value in tags.items()]
    yield "big.tiff", tiff(entries, bytes(range(256)) * 20, big=True), SCORED
    for name, changed, code in (
        ("zero", {"_256": 0}, "corrupt"),
        ("100000-wide", {"_256": 100_000}, "side_too_long"),
        ("20000x20000", {"_256": 20_000, "_257": 20_000, "_278": 20_000}, "too_many_pixels"),
        ("lying-strip", {"_279": 10}, SCORED),
        ("strip-beyond", {"_273": 4_000_000_000}, "truncated"),
        ("32-bit-offsets-wrap", {"_273": 0xFFFFFFF0}, "truncated"),
        ("9-planes", {"_277": 9}, "corrupt"),
        ("255-bits", {"_258": 255}, "unsupported_pixels"),
        ("no-compression-known", {"_259": 12_345}, "corrupt"),
        ("not-lzw", {"_259": 5}, "corrupt"),
        ("not-jpeg", {"_259": 7}, "corrupt"),
        ("not-lzma", {"_259": 34_925}, "corrupt"),
        ("not-fax", {"_259": 4, "_258": 1}, "corrupt"),
        ("no-rows", {"_278": 0}, "corrupt"),
        ("lab", {"_262": 8, "_277": 3}, "unsupported_pixels"),
    ):
        yield f"{name}.tiff", grey_tiff(**changed), code
    yield "cyclic.tiff", grey_tiff()[: -5120 - 4] + struct.pack("<I", 8) + bytes(5120), SCORED
    yield "itself.tiff", b"II*\0\0\0\0\0" + bytes(100), "truncated"
    yield "directory-beyond.tiff", b"II*\0\xf0\xff\xff\xff" + bytes(100), "truncated"
    yield "65535-entries.tiff", b"II*\0\x08\0\0\0\xff\xff" + bytes(200), "truncated"
    overlapping = [(256, 4, 1, 80), (257, 4, 1, 64), *((40_000 + i, 1, 50_000, 8) for i in range(1000))]
    yield "overlapping.tiff", tiff(overlapping), "too_much_metadata"
    yield "huge-value.tiff", tiff([(256, 4, 1, 80), (270, 2, 0xFFFFFFFF, 8)]), "too_much_metadata"
    floats = Image.fromarray(np.full((64, 64), np.nan, np.float32))
    yield "not-a-number.tiff", encode(floats, "TIFF"), "unsupported_pixels"


def avifs() -> Iterator[Case]:
    avif = encode(picture(), "AVIF", quality=40)
    size = struct.pack(">II", 96, 80)
    yield "plain.avif", avif, SCORED
    yield "30000x30000.avif", avif.replace(size, struct.pack(">II", 30_000, 30_000)), "corrupt"
    yield "lying-size.avif", avif.replace(size, struct.pack(">II", 960, 800)), SCORED  # stretched by libavif
    yield "zero.avif", avif.replace(size, bytes(8)), "corrupt"
    yield "no-meta.avif", avif[: avif.index(b"meta") - 4] + box(b"mdat", bytes(99)), "truncated"
    yield "box-of-2-to-64.avif", avif[:32] + b"\0\0\0\1mdat" + b"\xff" * 8 + avif[32:], "truncated"
    yield "grid-of-itself.avif", avif.replace(b"av01Color", b"gridColor"), "corrupt"
    grid = b"\0\1\xff\xff" + struct.pack(">II", 60_000, 60_000)
    yield "lying-grid.avif", avif.replace(b"av01Color", b"gridColor")[:-16] + grid, "truncated"


def flats() -> Iterator[Case]:
    """Without any texture: statistics divide by nothing, and must not come out as NaN."""
    for name, shade in (("black", 0), ("grey", 128), ("white", 255)):
        for image_format in ("PNG", "JPEG", "WEBP", "AVIF"):
            yield f"{name}.{image_format.lower()}", encode(np.full((64, 64, 3), shade, np.uint8), image_format), SCORED
    yield "transparent.png", encode(np.zeros((64, 64, 4), np.uint8), "PNG"), SCORED
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    yield "stripes.png", encode(stripes, "PNG"), SCORED


def animated() -> Iterator[Case]:
    frames = [Image.fromarray(np.roll(picture(64, 64), shift, 0)) for shift in range(3)]
    for image_format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        content = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
        yield f"animated.{image_format.lower()}", content, SCORED
    yield "animation-of-nothing.png", flat_png(64, 64, before=chunk(b"acTL", bytes(8))), SCORED
    yield (
        "2-to-31-frames.png",
        flat_png(64, 64, before=chunk(b"acTL", b"\x7f\xff\xff\xff" + bytes(4))),
        "unsupported_format",
    )
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 60_000, 60_000, 0, 0, 1, 1, 0, 0))
    yield "frame-beyond.png", flat_png(64, 64, before=chunk(b"acTL", b"\0\0\0\1" + bytes(4)) + control), SCORED


def cases() -> Iterator[Case]:
    """Name, content and expected outcome of every file."""
    for make in (not_images, wrong_names, cuts, bombs, jpegs, metadata, tiffs, avifs, flats, animated):
        yield from make()
    yield from odd_cases()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "expected.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "expected"])
        for name, content, expected in cases():
            (folder / name).write_bytes(content)
            table.writerow([name, expected])


if __name__ == "__main__":
    main()
