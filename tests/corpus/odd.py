"""More of the corpus: whole files of odd make, and small ones that are much work for a reader."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from corpus.parts import (
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
from PIL import Image

TOO_MUCH = "too_much_metadata"


def odd_cases() -> Iterator[Case]:
    """Name, content and expected outcome of every file."""
    for make in (_others, _jpegs, _orientations, _pngs, _gifs, _webps, _tiffs, _bmps, _avifs):
        yield from make()


def _others() -> Iterator[Case]:
    """Images, and what is shown beside them, that are not read."""
    starts = {
        "cursor.cur": b"\0\0\2\0\1\0",
        "layers.psd": b"8BPS\0\1",
        "placeable.wmf": b"\xd7\xcd\xc6\x9a",
        "enhanced.emf": b"\1\0\0\0" + bytes(36) + b" EMF",
        "pixmap.xpm": b"/* XPM */\nstatic char *a[] = {\n",
        "bitmap.xbm": b"#define im_width 64\n#define im_height 64\n",
        "codestream.j2k": b"\xff\x4f\xff\x51",
        "naked.jxl": b"\xff\x0a",
        "surface.dds": b"DDS \x7c\0\0\0",
        "apple.icns": b"icns\0\0\0\x48",
        "plain.ppm": b"P6 64 64 255\n",
        "quite.qoi": b"qoif\0\0\0\x40\0\0\0\x40\3\0",
        "program.elf": b"\x7fELF\2\1\1",
        "one-byte.jpg": b"\xff",
        "two-bytes.jpg": b"\xff\xd8",
        "nul\n\u202egpj.exe": b"MZ\x90\0",
    }
    for name, start in starts.items():
        padding = b"" if name.endswith("byte.jpg") or name.endswith("bytes.jpg") else bytes(60)
        yield name, start + padding, "unsupported_format"
    yield "signature-only.png", b"\x89PNG\r\n\x1a\n", "truncated"
    yield "signature-only.gif", b"GIF89a", "truncated"
    yield "signature-only.webp", b"RIFF\0\0\0\0WEBP", "corrupt"
    yield "signature-only.tiff", b"II*\0", "truncated"
    yield "signature-only.bmp", b"BM", "corrupt"
    yield "signature-only.avif", box(b"ftyp", b"avif"), "truncated"


def _jpegs() -> Iterator[Case]:
    jpeg = encode(picture(), "JPEG", quality=40)
    frame, scan, table = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda"), jpeg.index(b"\xff\xc4")
    # Pillow goes over these in Python, one by one.
    yield "30000-fill-bytes.jpg", jpeg[:2] + b"\xff" * 30_000 + jpeg[2:], TOO_MUCH
    yield "30000-zeros.jpg", jpeg[:3] + bytes(30_000), TOO_MUCH
    yield "30000-restarts-before-the-frame.jpg", jpeg[:2] + b"\xff\xd0" * 15_000 + jpeg[2:], TOO_MUCH
    yield "end-before-scan.jpg", b"\xff\xd8\xff\xd9" + segment(0xFE, b"") * 2000 + jpeg[2:], "corrupt"
    yield "thumbnail-in-exif.jpg", jpeg[:2] + segment(0xE1, b"Exif\0\0" + jpeg) + jpeg[2:], SCORED
    yield "stray-before-scan.jpg", jpeg[:scan] + b"stray" + jpeg[scan:], SCORED
    restarts = encode(picture(), "JPEG", quality=40, restart_marker_blocks=1)
    yield "restarts.jpg", restarts, SCORED
    yield "restart-lost.jpg", restarts.replace(b"\xff\xd0", b"", 1), "corrupt"
    yield "restart-of-another-number.jpg", restarts.replace(b"\xff\xd0", b"\xff\xd5", 1), "corrupt"
    yield "restart-unannounced.jpg", jpeg[:-99] + b"\xff\xd0" + jpeg[-99:], "truncated"
    yield "restart-every-65535.jpg", jpeg[:2] + segment(0xDD, b"\xff\xff") + jpeg[2:], SCORED
    for sampling, code in ((0x00, "corrupt"), (0xFF, "corrupt"), (0x41, SCORED), (0x33, "corrupt")):
        yield f"sampling-{sampling:02x}.jpg", jpeg[: frame + 11] + bytes([sampling]) + jpeg[frame + 12 :], code
    thrice = b"\1" + jpeg[frame + 11 : frame + 13] + b"\1" + jpeg[frame + 14 : frame + 16] + b"\1"
    yield "one-component-thrice.jpg", jpeg[: frame + 10] + thrice + jpeg[frame + 17 :], "corrupt"
    many = struct.pack(">H", 8 + 3 * 255) + jpeg[frame + 4 : frame + 9] + b"\xff" + b"\1\x11\0" * 255
    yield "255-components.jpg", jpeg[: frame + 2] + many + jpeg[frame + 19 :], "corrupt"
    lines = jpeg.replace(struct.pack(">HH", 80, 96), struct.pack(">HH", 0, 96))
    yield "height-at-the-end.jpg", lines[:-2] + segment(0xDC, b"\0\x50") + b"\xff\xd9", "corrupt"
    yield "codes-that-overlap.jpg", jpeg[: table + 5] + b"\xff" * 16 + jpeg[table + 21 :], "corrupt"
    yield "no-quantisation.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xec"), "corrupt"
    yield "rgb-called-ycck.jpg", jpeg[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\2") + jpeg[2:], SCORED
    cmyk = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG")
    kind = cmyk.index(b"Adobe") + 11
    yield "cmyk-called-ycck.jpg", cmyk[:kind] + b"\2" + cmyk[kind + 1 :], SCORED
    yield "cmyk-called-ycc.jpg", cmyk[:kind] + b"\1" + cmyk[kind + 1 :], SCORED
    progressive = encode(picture(), "JPEG", quality=40, progressive=True)
    yield "arithmetic-progressive.jpg", progressive.replace(b"\xff\xc2", b"\xff\xca", 1), SCORED
    second = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 2)
    yield "means-only.jpg", progressive[:second] + b"\xff\xd9", "truncated"
    file = io.BytesIO()
    frames = [Image.fromarray(picture(64, 64))] * 9
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    album = file.getvalue()
    index = album.index(b"MPF\0")
    yield "album.mpo", album, SCORED
    yield "album-of-nowhere.mpo", album[: index + 60] + b"\xff" * 90 + album[index + 150 :], SCORED


def _orientations() -> Iterator[Case]:
    """EXIF's orientation, which is read, of every wrong kind."""
    jpeg = encode(picture(64, 64), "JPEG", quality=40)
    values = {
        "0": struct.pack("<HII", 3, 1, 0),
        "9": struct.pack("<HII", 3, 1, 9),
        "65535": struct.pack("<HII", 3, 1, 65_535),
        "six": struct.pack("<HI4s", 2, 4, b"six\0"),
        "not-a-number": struct.pack("<HIf", 11, 1, float("nan")),
        "over-zero": struct.pack("<HII", 5, 1, 0),
    }
    for name, value in values.items():
        exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<H", 0x112) + value + bytes(4)
        yield f"orientation-{name}.jpg", jpeg[:2] + segment(0xE1, exif) + jpeg[2:], SCORED
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x112, 5, 2**32 - 1, 8) + bytes(4)
    yield "orientation-of-34-gb.jpg", jpeg[:2] + segment(0xE1, exif) + jpeg[2:], SCORED


def _pngs() -> Iterator[Case]:
    flat = {"width": 64, "height": 64}
    rows = (b"\0" + bytes(192)) * 64
    indices = (b"\0" + b"\xff" * 64) * 64
    palette = chunk(b"PLTE", bytes(3))
    yield "index-beyond-palette.png", png(64, 64, indices, colour=3, before=palette), SCORED
    yield "no-palette.png", png(64, 64, indices, colour=3), "corrupt"
    yield "palette-of-300.png", png(64, 64, indices, colour=3, before=chunk(b"PLTE", bytes(900))), "corrupt"
    yield "palette-of-5-bytes.png", png(64, 64, indices, colour=3, before=chunk(b"PLTE", bytes(5))), SCORED
    opaque = palette + chunk(b"tRNS", bytes(300))
    yield "300-transparencies.png", png(64, 64, indices, colour=3, before=opaque), SCORED
    yield "transparency-too-short.png", png(64, 64, rows, before=chunk(b"tRNS", b"\0")), SCORED
    twice = png(64, 64, (b"\0" + bytes(256)) * 64, colour=6, before=chunk(b"tRNS", bytes(6)))
    yield "transparency-twice.png", twice, SCORED
    wide = png(64, 64, (b"\0" + bytes(128)) * 64, depth=16, colour=0, before=chunk(b"tRNS", b"\xff\xff"))
    yield "transparency-of-16-bits.png", wide, SCORED
    yield "filter-9.png", png(64, 64, (b"\x09" + bytes(192)) * 64), "corrupt"
    yield "depth-3.png", png(64, 64, rows, depth=3), "corrupt"
    yield "palette-of-16-bits.png", png(64, 64, rows, depth=16, colour=3, before=palette), "corrupt"
    yield "interlaced-64x9000.png", png(64, 9000, bytes(9 * 9000 * 2), depth=1, colour=0, interlaced=1), SCORED
    yield "interlaced-in-part.png", png(64, 64, rows[: 64 * 20], interlaced=1), "truncated"
    start, data = png(64, 64, b"")[:33], zlib.compress(rows)
    end = chunk(b"IEND", b"")
    yield "data-byte-by-byte.png", start + b"".join(chunk(b"IDAT", bytes([b])) for b in data) + end, SCORED
    yield "1000-empty-data.png", start + chunk(b"IDAT", b"") * 1000 + chunk(b"IDAT", data) + end, SCORED
    text = chunk(b"tEXt", b"a\0b")
    yield "text-amid-data.png", start + chunk(b"IDAT", data[:20]) + text + chunk(b"IDAT", data[20:]) + end, "truncated"
    yield "deflate-with-a-dictionary.png", start + chunk(b"IDAT", b"\x78\xbb" + bytes(40)) + end, "truncated"
    empty_blocks = b"\x78\x01" + b"\0\0\0\xff\xff" * 600
    yield "data-of-nothing.png", start + chunk(b"IDAT", empty_blocks) + end, "truncated"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 8000, 8, 6, 0, 0, 0))
    yield "second-head.png", flat_png(**flat, before=head), "corrupt"
    yield "late-head.png", flat_png(**flat)[:8] + text + flat_png(**flat)[8:], "corrupt"
    yield "of-a-phone-app.png", flat_png(**flat)[:8] + chunk(b"CgBI", bytes(4)) + flat_png(**flat)[8:], "corrupt"
    yield "negative-chunk.png", flat_png(**flat, before=b"\xff\xff\xff\xfftEXta\0b"), "corrupt"
    yield "nameless-chunk.png", flat_png(**flat, before=chunk(bytes(4), b"x")), SCORED
    almost = zlib.compress(bytes((1 << 20) - 99), 9)
    yield "17-profile-bombs.png", flat_png(**flat, before=chunk(b"iCCP", b"a\0\0" + almost) * 17), SCORED
    yield "text-of-no-compression-known.png", flat_png(**flat, before=chunk(b"zTXt", b"a\0\xffjunk")), SCORED
    animation = chunk(b"acTL", struct.pack(">II", 2, 0))
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 5, 64, 64, 0, 0, 1, 1, 2, 1))
    yield "frames-out-of-order.png", flat_png(**flat, before=animation + control), SCORED
    # Browsers read none of these.
    for kind in (b"tEXt", b"prVt", b"eXIf", b"tRNS", b"acTL"):
        damaged = chunk(kind, b"\0\0\0\1" + bytes(4))[:-4] + b"sum!"
        yield f"wrong-checksum-of-{kind.decode()}.png", flat_png(**flat, before=damaged), SCORED
    for kind in (b"pHYs", b"sRGB", b"gAMA", b"cHRM", b"acTL"):
        yield f"too-short-{kind.decode()}.png", flat_png(**flat, before=chunk(kind, b"")), SCORED
    yield "profile-of-no-compression-known.png", flat_png(**flat, before=chunk(b"iCCP", b"a\0\1junk")), SCORED
    yield "profile-without-a-name.png", flat_png(**flat, before=chunk(b"iCCP", b"abc")), SCORED
    yield "wrong-checksum-of-the-end.png", flat_png(**flat)[:-4] + bytes(4), SCORED
    yield "junk-before-the-end.png", flat_png(**flat)[:-12] + b"junk" + flat_png(**flat)[-12:], SCORED
    yield (
        "4-bits-of-a-transparent-shade.png",
        png(64, 64, (b"\0" + bytes(32)) * 64, depth=4, colour=0, before=chunk(b"tRNS", b"\0\x0f")),
        SCORED,
    )
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))
    frame += chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress((b"\0" + bytes(8)) * 64))
    yield "another-picture-first.png", flat_png(**flat, before=animation, after=frame), "unsupported_format"


def _gifs() -> Iterator[Case]:
    def gif(width, height, *frames, palette=bytes(6)) -> bytes:
        head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 if palette else 0, 0, 0)
        return head + palette + b"".join(frames) + b";"

    def frame(width, height, data, code_bits=2) -> bytes:
        blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
        return b"," + struct.pack("<HHHHBB", 0, 0, width, height, 0, code_bits) + blocks + b"\0"

    whole = frame(64, 64, b"\x44" * 2000)
    yield "frame-of-nothing.gif", gif(64, 64, frame(0, 0, b"\x44\x01")), "corrupt"
    yield "canvas-of-nothing.gif", gif(0, 0, frame(64, 64, b"\x44" * 9)), "truncated"
    yield "only-clear-codes.gif", gif(64, 64, frame(64, 64, b"\x24\x49\x92" * 900)), "truncated"
    yield "codes-of-12-bits.gif", gif(64, 64, frame(64, 64, bytes(999), 12)), "truncated"
    yield "79-megapixels-of-nothing.gif", gif(9900, 8000, frame(9900, 8000, b"")), "truncated"
    # Pillow goes over these in Python, one by one.
    yield "20001-extensions.gif", gif(64, 64, b"!\xfe\0" * 20_001, whole), TOO_MUCH
    yield "30000-stray-bytes.gif", gif(64, 64, bytes(30_000), whole), TOO_MUCH
    yield "30000-zeros.gif", gif(64, 64)[:-1] + bytes(30_000), TOO_MUCH
    yield "9-stray-bytes.gif", gif(64, 64, b"!\xfe\1x\0", bytes(9), encode(picture(64, 64), "GIF")[781:-1]), SCORED
    control = b"!\xf9\1\0\0"
    yield "control-too-short.gif", gif(64, 64, control, whole), "corrupt"


def _webps() -> Iterator[Case]:
    rng = np.random.default_rng(11)
    lossy, lossless = encode(picture(), "WEBP", quality=50), encode(picture(), "WEBP", lossless=True)
    data = lossy[20 : 20 + struct.unpack_from("<I", lossy, 16)[0]]
    still = b"VP8 " + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def canvas(width, height, flags=2) -> tuple[bytes, bytes]:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"VP8X", bytes([flags, 0, 0, 0]) + sides

    def frame(left, top, content=still) -> tuple[bytes, bytes]:
        place = left.to_bytes(3, "little") + top.to_bytes(3, "little")
        return b"ANMF", place + canvas(96, 80)[1][4:] + b"\1\0\0\0" + content

    animation = (b"ANIM", bytes(6))
    yield "30-frames.webp", riff(canvas(96, 80), animation, *[frame(0, 0)] * 30), SCORED
    yield "frame-outside.webp", riff(canvas(96, 80), animation, frame(4000, 4000)), "corrupt"
    yield "no-frames.webp", riff(canvas(96, 80), animation), "corrupt"
    inner = b"ANMF" + struct.pack("<I", len(frame(0, 0)[1])) + frame(0, 0)[1]
    yield "frame-in-a-frame.webp", riff(canvas(96, 80), animation, frame(0, 0, inner)), SCORED
    transparency = (b"ALPH", b"\1" + rng.bytes(300))
    yield "transparency-of-noise.webp", riff(canvas(96, 80, 0x10), transparency, (b"VP8 ", data)), "corrupt"
    yield "lossy-noise.webp", riff((b"VP8 ", data[:10] + rng.bytes(3000))), "corrupt"
    yield "lossless-noise.webp", riff((b"VP8L", lossless[20:25] + rng.bytes(3000))), "corrupt"
    head = data[:6] + struct.pack("<HH", 16_383, 16_383)
    yield "16383x16383.webp", riff((b"VP8 ", head + data[10:])), "too_many_pixels"
    bits = struct.pack("<I", 8999 | 8999 << 14)
    yield "9000x9000-lossless.webp", riff((b"VP8L", lossless[20:21] + bits + lossless[25:])), "too_many_pixels"
    yield "size-of-nothing.webp", lossy[:4] + bytes(4) + lossy[8:], "corrupt"
    yield "size-of-4-gb.webp", lossy[:4] + b"\xff" * 4 + lossy[8:], "truncated"
    yield "picture-of-4-gb.webp", lossy[:16] + b"\xff" * 4 + lossy[20:], "corrupt"


def _tiffs() -> Iterator[Case]:
    base = {256: 80, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1}

    def tiled(side, **changed) -> bytes:
        tags = base | {322: side, 323: side, 324: "pixels", 325: 256} | changed
        return tiff([(tag, 4, 1, value) for tag, value in tags.items()], bytes(range(256)) * 20)

    yield "tiles-of-2-to-31.tiff", tiled(2**31), "corrupt"
    yield "tiles-of-nothing.tiff", tiled(0), "corrupt"
    yield "one-tile-of-many.tiff", tiled(16), "truncated"
    entries = [(tag, 4, 1, value) for tag, value in base.items()]
    strips = [(273, 4, 300_000, 8), (278, 4, 1, 1), (279, 4, 300_000, 8)]
    yield "300000-strips.tiff", tiff([*entries, *strips], bytes(5120)), TOO_MUCH
    colours = [(273, 4, 1, 200), (279, 4, 1, 5120), (320, 3, 7_000_000, 8)]
    yield "palette-of-7-million.tiff", tiff([*entries, *colours], bytes(5120)), TOO_MUCH
    ratios = [(273, 4, 1, 200), (279, 4, 1, 5120), (40_000, 10, 300_000, 8)]
    yield "300000-ratios.tiff", tiff([*entries, *ratios], bytes(5120)), TOO_MUCH
    for name, kind, bits, code in (
        ("half-floats", 3, 16, "unsupported_pixels"),
        ("signed-16", 2, 16, "unsupported_pixels"),
        ("unsigned-32", 1, 32, "unsupported_pixels"),
        ("no-bits", 1, 0, "unsupported_pixels"),
        ("4-bits", 1, 4, SCORED),
        ("12-bits", 1, 12, SCORED),
    ):
        tags = base | {258: bits, 273: "pixels", 278: 64, 279: 640 * bits, 339: kind}
        yield f"{name}.tiff", tiff([(tag, 4, 1, value) for tag, value in tags.items()], bytes(640 * bits)), code
    for name, changed, code in (
        ("palette-that-is-none", {"_262": 3}, "corrupt"),
        ("colours-of-no-kind", {"_262": 99}, "unsupported_pixels"),
        ("65535-samples", {"_277": 65_535}, "corrupt"),
        ("orientation-99", {"_274": 99}, SCORED),
        ("directory-in-itself", {"_330": 8, "_34665": 8, "_34853": 8}, SCORED),
        ("old-jpeg", {"_259": 6}, "corrupt"),
        ("jpeg-2000", {"_259": 34_712}, "corrupt"),
        ("zstandard", {"_259": 50_000}, "corrupt"),
    ):
        yield f"{name}.tiff", grey_tiff(**changed), code
    for name, changed, code in (
        ("smaller-copy", {"_254": 1, "_330": 8}, "unsupported_format"),
        ("page-of-many", {"_254": 2}, SCORED),
        ("copy-of-no-kind", {"_255": 99}, SCORED),
        ("smaller-copy-of-old", {"_255": 2}, "unsupported_format"),
        ("negative", {"_262": 0}, SCORED),
        ("negative-of-16-bits", {"_262": 0, "_258": 16, "height": 128, "_257": 64, "_278": 64}, SCORED),
        ("sideways", {"_274": 6}, SCORED),
    ):
        yield f"{name}.tiff", grey_tiff(**changed), code
    values = b"".join(struct.pack("<HHII", 1000 + i, 1, 60_000, 8) for i in range(100))
    directory = struct.pack("<H", 100) + values + bytes(60_000)
    yield "exif-overlapping.tiff", grey_tiff(_34665=8 + 2 + 12 * 10 + 4 + 5120) + directory, SCORED
    yield "2-to-63-entries.tiff", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63) + bytes(400), "truncated"
    yield "offset-of-2-to-63.tiff", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63) + bytes(400), "truncated"
    yield "jpeg-within.tiff", encode(picture(), "TIFF", compression="jpeg"), SCORED


def _bmps() -> Iterator[Case]:
    def bmp(width, height, bits, packing, data, colours=256, head=40, offset=None) -> bytes:
        palette = bytes(4 * min(colours, 256)) if bits < 16 else b""
        start = 14 + head + len(palette) if offset is None else offset
        about = struct.pack("<IiiHHIIiiII", head, width, height, 1, bits, packing, len(data), 0, 0, colours, 0)
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + about + bytes(head - 40) + palette + data

    lines = (b"\xff\x12" * 39 + b"\0\0") * 40 + b"\0\1"
    yield "runs-of-79-megapixels.bmp", bmp(9900, 8000, 4, 2, lines, 16), "unsupported_pixels"
    yield "runs.bmp", bmp(64, 64, 8, 1, b"\x40\7\0\0" * 64 + b"\0\1"), "unsupported_pixels"
    yield "upside-down.bmp", bmp(64, -64, 24, 0, bytes(64 * 64 * 3)), SCORED
    old = struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, 64, 64, 1, 24)
    yield "of-os2.bmp", b"BM" + old + bytes(64 * 64 * 3), SCORED
    yield "of-os2-version-2.bmp", bmp(64, 64, 24, 0, bytes(64 * 64 * 3), head=64), SCORED
    yield "4-billion-colours.bmp", bmp(64, 64, 8, 0, bytes(4096), 2**32 - 1), "corrupt"
    yield "3-bits.bmp", bmp(64, 64, 3, 0, bytes(4096)), "corrupt"
    yield "pixels-beyond.bmp", bmp(64, 64, 24, 0, bytes(64 * 64 * 3), offset=2**31), "truncated"
    for name, bits, masks, code in (
        ("4-bits-each", 16, (0xF00, 0xF0, 0xF), SCORED),
        ("4-bits-each-and-alpha", 16, (0xF00, 0xF0, 0xF, 0xF000), SCORED),
        ("10-bits-each", 32, (0x3FF00000, 0xFFC00, 0x3FF), SCORED),
        ("red-and-blue-exchanged", 32, (0xFF, 0xFF00, 0xFF0000), SCORED),
        ("no-red", 16, (0, 0xF0, 0xF), SCORED),
        ("bits-apart", 32, (0xF0F, 0xF0, 0xFF0000), "unsupported_pixels"),
        ("bits-beyond", 16, (0xF0000, 0xF0, 0xF), "unsupported_pixels"),
        ("fields-of-8-bits", 8, (4, 2, 1), "unsupported_pixels"),
    ):
        fields = struct.pack(f"<{len(masks)}I", *masks) + bytes(64 * 64 * bits // 8)
        content = bmp(64, 64, bits, 3, fields, offset=54 + 4 * len(masks))
        if len(masks) == 4:
            content = content[:14] + struct.pack("<I", 56) + content[18:]  # the masks are a part of the head
        yield f"{name}.bmp", content, code
        if code == SCORED:
            yield f"{name}-cut.bmp", content[:-1], "truncated"
    yield "jpeg-within.bmp", bmp(64, 64, 0, 4, encode(picture(64, 64), "JPEG", quality=40)), "corrupt"


def _avifs() -> Iterator[Case]:
    avif = encode(picture(64, 64), "AVIF", quality=30)
    for kind, code in ((b"iloc", "corrupt"), (b"iinf", "corrupt"), (b"av1C", "corrupt")):
        start = avif.index(kind) + (4 if kind == b"av1C" else 8)
        yield f"{kind.decode()}-of-ones.avif", avif[:start] + b"\xff" * 4 + avif[start + 4 :], code
    yield "20001-empty-data.avif", avif[:32] + box(b"mdat") * 20_001 + avif[32:], TOO_MUCH
    exif = encode(picture(64, 64), "AVIF", quality=30, exif=b"Exif\0\0" + tiff([(271, 4, 1, 7)]))
    yield "exif-of-no-order.avif", exif.replace(b"II*\0", b"XX*\0"), SCORED
    head = struct.pack(">I4sQ", 1, b"ftyp", 32) + b"avif\0\0\0\0avifmif1"  # of the same length
    yield "head-of-64-bits.avif", head + avif[32:], SCORED
    data = avif.index(b"mdat") + 4
    yield "noise.avif", avif[:data] + np.random.default_rng(5).bytes(len(avif) - data), "corrupt"
