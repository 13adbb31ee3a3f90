"""Bytes to pixels: every format, mode and orientation against numpy."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from formats import (
    BROKEN_EXIF,
    GREY,
    LOSSLESS,
    LOSSY,
    PNG_END,
    RGB,
    WIDE,
    chunk,
    damaged,
    encode_gif,
    error_of,
    grey_to_rgb,
    png,
    png_data,
    png_head,
    png_of,
    save,
)
from PIL import Image

from mdmf_ops.detector import ErrorCode, decode
from mdmf_ops.images import avif


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_every_pixel(name):
    decoded = decode(save(RGB, name))
    np.testing.assert_array_equal(decoded.pixels, RGB)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.format, decoded.jpeg_quality) == (LOSSLESS[name][0], None)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_give_nearly_every_pixel(name):
    decoded = decode(save(RGB, name))
    assert np.abs(decoded.pixels.astype(int) - RGB).mean() < 6
    assert decoded.format == {"MPO": "JPEG"}.get(LOSSY[name][0], LOSSY[name][0])


@pytest.mark.parametrize("name", ["png", "bmp", "tiff", "tiff lzw", "jpeg", "webp", "avif"])
def test_greyscale_is_three_equal_channels(name):
    pixels = decode(save(GREY, name)).pixels
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 1])
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, 2])
    assert np.abs(pixels[:, :, 0].astype(int) - GREY).max() <= (0 if name in LOSSLESS else 20)


@pytest.mark.parametrize("name", ["png", "bmp", "tiff", "tiff lzw", "tiff packbits"])
def test_one_bit_is_black_and_white(name):
    black_and_white = Image.fromarray(GREY > 128)
    np.testing.assert_array_equal(
        decode(save(black_and_white, name)).pixels, grey_to_rgb(np.where(GREY > 128, 255, 0).astype(np.uint8))
    )


@pytest.mark.parametrize("name", ["png", "bmp", "tiff", "tiff lzw", "gif"])
def test_a_palette_gives_its_colours(name):
    indexed = Image.fromarray(RGB).quantize(50)
    colours = np.array(indexed.getpalette()).reshape(-1, 3)
    content = encode_gif(indexed) if name == "gif" else save(indexed, name)
    np.testing.assert_array_equal(decode(content).pixels, colours[np.asarray(indexed)])


@pytest.mark.parametrize("name", ["png", "tiff", "tiff deflate"])
def test_of_16_bits_the_upper_eight_are_read(name):
    expected = (WIDE >> 8).astype(np.uint8)
    np.testing.assert_array_equal(decode(save(WIDE, name)).pixels, grey_to_rgb(expected))


def test_16_bits_of_either_byte_order_are_the_same():
    big = Image.frombytes("I;16B", (128, 96), WIDE.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(save(big, "tiff")).pixels, decode(save(WIDE, "tiff")).pixels)


def test_a_shade_of_16_bits_is_the_same_whether_grey_or_a_colour():
    shades = np.arange(1 << 16, dtype=">u2").reshape(256, 256)
    grey, colour = (
        png(256, 256, 16, kind, [row.repeat(n).tobytes() for row in shades]) for kind, n in ((0, 1), (2, 3))
    )
    np.testing.assert_array_equal(decode(colour).pixels, grey_to_rgb((shades >> 8).astype(np.uint8)))
    np.testing.assert_array_equal(decode(grey).pixels, decode(colour).pixels)


def test_a_transparent_shade_of_16_bits_is_white():
    shades = np.random.default_rng(4).integers(1000, 1004, (96, 128)).astype(">u2")
    transparent = chunk(b"tRNS", struct.pack(">H", 1002))
    pixels = decode(png(128, 96, 16, 0, [row.tobytes() for row in shades], transparent)).pixels
    np.testing.assert_array_equal(pixels, grey_to_rgb(np.where(shades == 1002, 255, 3).astype(np.uint8)))


def grey_tiff(data, bits, photometric, **more):
    """A TIFF of one strip of 128 x 96 px of grey, for what Pillow does not write."""
    tags = {256: 128, 257: 96, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 96, 279: len(data)}
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def test_of_12_bits_the_upper_eight_are_read():
    shades = WIDE >> 4
    pairs = shades.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").tobytes()
    data = b"".join(packed[at + 1 : at + 4] for at in range(0, len(packed), 4))
    expected = (shades >> 4).astype(np.uint8)
    np.testing.assert_array_equal(decode(grey_tiff(data, 12, 1)).pixels, grey_to_rgb(expected))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_negative_tiff_is_a_positive_picture(bits):
    shades = WIDE >> (16 - bits)
    data = (((1 << bits) - 1) - shades).astype(f"<u{bits // 8}").tobytes()
    expected = (shades >> (bits - 8)).astype(np.uint8)
    np.testing.assert_array_equal(decode(grey_tiff(data, bits, 0)).pixels, grey_to_rgb(expected))


@pytest.mark.parametrize("tag", [{"_254": 1}, {"_254": 5}, {"_255": 2}])
def test_a_tiff_that_begins_with_a_smaller_copy_is_not_read_for_its_picture(tag):
    error = error_of(grey_tiff(GREY.tobytes(), 8, 1, **tag))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT and "smaller copy" in error.message
    others = {name: value - 1 for name, value in tag.items()}
    np.testing.assert_array_equal(decode(grey_tiff(GREY.tobytes(), 8, 1, **others)).pixels, grey_to_rgb(GREY))


def tiff_of_parts(parts, bits, photometric, rows=96, **more):
    """An unpacked TIFF of 128 x 96 px of such strips; of one that is left out there is nothing."""
    tags = {
        256: (4, [128]),
        257: (4, [96]),
        258: (3, bits),
        259: (3, [1]),
        262: (3, [photometric]),
        277: (3, [len(bits)]),
    }
    tags |= {278: (4, [rows])} | {int(tag[1:]): (3, values) for tag, values in more.items()}
    tags |= {273: (4, [0] * len(parts)), 279: (4, [len(part) for part in parts])}
    end = 8 + 2 + 12 * len(tags) + 4
    start = end + sum(4 * len(values) for _, values in tags.values())
    tags[273] = 4, [start + sum(map(len, parts[:i])) if part else 0 for i, part in enumerate(parts)]
    directory, behind = struct.pack("<H", len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}{'HI'[kind == 4]}", *values)
        if len(data) > 4:
            data, behind = struct.pack("<I", end + len(behind)), behind + data
        directory += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + behind.ljust(start - end, b"\0") + b"".join(parts)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [[], [0], [1], [2]], ids=["none", "unknown", "premultiplied", "alpha"])
def test_a_tiffs_colours_may_lie_in_planes(bits, extra):
    samples = np.dstack([RGB, np.full((96, 128, len(extra)), 255, np.uint8)]).astype(np.uint16)
    samples = samples.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    more = {"_338": extra} if extra else {}
    planes = [plane.tobytes() for plane in samples.transpose(2, 0, 1)]
    all_bits = [bits] * len(planes)
    for parts, planar in (([samples.tobytes()], 1), (planes, 2)):
        content = tiff_of_parts(parts, all_bits, 2, _284=[planar], **more)
        np.testing.assert_array_equal(decode(content).pixels, RGB)
        assert error_of(content[:-1]).code is ErrorCode.TRUNCATED
    if not extra:
        assert error_of(tiff_of_parts(planes[:2], all_bits, 2, _284=[2])).code is ErrorCode.CORRUPT


@pytest.mark.parametrize("behind", [0, 100_000])
def test_an_unpacked_tiff_of_ycbcr_gives_its_colours(behind):
    samples = np.asarray(Image.fromarray(RGB).convert("YCbCr")).tobytes()
    content = tiff_of_parts([samples], [8, 8, 8], 6, _530=[1, 1]) + bytes(behind)
    assert np.abs(decode(content).pixels.astype(int) - RGB).max() <= 4  # roundings


def test_a_tiff_that_lacks_strips_is_an_error():
    strips = [GREY[top : top + 16].tobytes() for top in range(0, 96, 16)]
    np.testing.assert_array_equal(decode(tiff_of_parts(strips, [8], 1, rows=16)).pixels, grey_to_rgb(GREY))
    for number in range(1, 6):
        left_out = [*strips[:number], b"", *strips[number + 1 :]]
        for some in (strips[:number], left_out):
            assert error_of(tiff_of_parts(some, [8], 1, rows=16)).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_without_an_agreed_brightness_are_refused(mode):
    image = Image.fromarray(GREY.astype(np.float32) / 255) if mode == "F" else Image.new(mode, (128, 96))
    assert error_of(save(image, "tiff")).code is ErrorCode.UNSUPPORTED_PIXELS


def test_a_tiff_of_a_pixel_type_that_pillow_does_not_know_is_not_called_damaged():
    content = save(GREY, "tiff")
    entry = re.search(struct.pack("<HHI", 258, 3, 1), content).end()  # BitsPerSample
    content = content[:entry] + struct.pack("<H", 11) + content[entry + 2 :]
    assert error_of(content).code is ErrorCode.UNSUPPORTED_PIXELS


# Transparency: composited on white, within a rounding of float64 arithmetic.


def on_white(rgb, alpha):
    share = alpha[:, :, None].astype(np.float64) / 255
    return rgb * share + 255 * (1 - share)


ALPHA = np.tile(np.arange(128, dtype=np.uint8) * 2, (96, 1))
ALPHA[:, -1] = 255


@pytest.mark.parametrize("name", ["png", "webp", "tiff", "tiff lzw"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_white(name, mode):
    image = Image.fromarray(RGB if mode == "RGBA" else GREY)
    image.putalpha(Image.fromarray(ALPHA))
    pixels = decode(save(image, name)).pixels
    expected = on_white(RGB if mode == "RGBA" else grey_to_rgb(GREY), ALPHA)
    assert np.abs(pixels - expected).max() <= 1
    opaque = ALPHA == 255
    np.testing.assert_array_equal(pixels[opaque], expected[opaque])
    assert (pixels[ALPHA == 0] == 255).all()


def test_transparency_of_avif_is_white():
    image = Image.fromarray(RGB)
    image.putalpha(Image.fromarray(ALPHA))
    pixels = decode(save(image, "avif")).pixels
    assert np.abs(pixels - on_white(RGB, ALPHA)).mean() < 6


def test_an_opaque_alpha_changes_nothing():
    image = Image.fromarray(RGB)
    image.putalpha(255)
    np.testing.assert_array_equal(decode(save(image, "png")).pixels, RGB)


def test_a_palette_with_a_share_of_transparency_for_each_colour():
    indexed = Image.fromarray(RGB).quantize(50)
    shares = np.linspace(0, 255, 50).astype(np.uint8)
    colours = np.array(indexed.getpalette()).reshape(-1, 3)
    index = np.asarray(indexed)
    pixels = decode(save(indexed, "png", transparency=shares.tobytes())).pixels
    assert np.abs(pixels - on_white(colours[index], shares[index])).max() <= 1


@pytest.mark.parametrize("name", ["png", "gif"])
def test_a_palette_with_one_transparent_colour(name):
    indexed = Image.fromarray(RGB).quantize(50)
    # Of the palette as it was: the encoder may sort it.
    colours, index = np.array(indexed.getpalette()).reshape(-1, 3), np.asarray(indexed)
    content = encode_gif(indexed, transparency=7) if name == "gif" else save(indexed, name, transparency=7)
    expected = np.where(index[:, :, None] == 7, 255, colours[index])
    np.testing.assert_array_equal(decode(content).pixels, expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_transparent_colour_without_a_palette(mode):
    pixels = RGB if mode == "RGB" else GREY
    colour = tuple(map(int, RGB[5, 7])) if mode == "RGB" else int(GREY[5, 7])
    hit = (pixels == colour).all(axis=2) if mode == "RGB" else pixels == colour
    expected = np.where(hit[:, :, None], 255, pixels if mode == "RGB" else grey_to_rgb(pixels))
    np.testing.assert_array_equal(decode(save(pixels, "png", transparency=colour)).pixels, expected)


@pytest.mark.parametrize("depth", [2, 4])
def test_a_transparent_shade_of_few_bits_is_white(depth):
    shades = np.random.default_rng(5).integers(0, 1 << depth, (96, 128))
    places = 8 // depth
    packed = sum(shades[:, place::places] << (8 - depth * (place + 1)) for place in range(places)).astype(np.uint8)
    content = png(128, 96, depth, 0, [row.tobytes() for row in packed], chunk(b"tRNS", b"\0\1"))
    expected = np.where(shades == 1, 255, shades * (255 // ((1 << depth) - 1)))
    np.testing.assert_array_equal(decode(content).pixels, grey_to_rgb(expected.astype(np.uint8)))


@pytest.mark.parametrize(("shade", "is_hit"), [(0x1234, True), (0x3412, False)])
def test_a_transparent_colour_of_16_bits_is_white(shade, is_hit):
    wide = np.random.default_rng(5).integers(0x2000, 1 << 16, (96, 128, 3)).astype(">u2")
    wide[:40] = 0x1234
    transparent = chunk(b"tRNS", struct.pack(">HHH", shade, shade, shade))
    expected = (wide >> 8).astype(np.uint8)
    if is_hit:
        expected[:40] = 255
    content = png(128, 96, 16, 2, [row.tobytes() for row in wide], transparent)
    np.testing.assert_array_equal(decode(content).pixels, expected)


COLOUR = chunk(b"tRNS", struct.pack(">HHH", *map(int, RGB[5, 7])))
NO_COLOUR = chunk(b"tRNS", struct.pack(">HHH", 256, 256, 256))


@pytest.mark.parametrize(
    ("before", "after", "is_white"),
    [
        ((COLOUR,), (), True),
        ((COLOUR, NO_COLOUR), (), True),
        ((NO_COLOUR, COLOUR), (), False),
        ((damaged(COLOUR),), (), False),
        ((chunk(b"tRNS", bytes(5)),), (), False),
        ((), (COLOUR,), False),
    ],
    ids=["one", "the first", "not the second", "wrong checksum", "too short", "too late"],
)
def test_of_transparent_colours_one_is_taken_as_browsers_do(before, after, is_white):
    content = png_of(png_head(RGB), *before, chunk(b"IDAT", png_data(RGB)), *after, PNG_END)
    expected = np.where(is_white & (RGB[5, 7] == RGB).all(axis=2, keepdims=True), 255, RGB)
    np.testing.assert_array_equal(decode(content).pixels, expected)


# A BMP's fields of bits.


def bmp_of_fields(bits, masks, shades, upright=False, head_bytes=40):
    """Of (H, W, 3 or 4), each channel as wide as its mask."""
    height, width, _ = shades.shape
    pixels = sum(shades[:, :, i].astype(np.uint64) << ((m & -m).bit_length() - 1) for i, m in enumerate(masks))
    rows = pixels if upright else pixels[::-1]
    rows = np.pad(rows, ((0, 0), (0, width * bits // 8 % 4 * 8 // bits))).astype(f"<u{bits // 8}")
    about = struct.pack("<IiiHHII16x", head_bytes, width, -height if upright else height, 1, bits, 3, 0)
    about += struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(about)) + about + rows.tobytes()


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x1F, 0x7E0, 0xF800)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xE0, 0x1C, 0x3)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
    ],
)
def test_a_bmp_of_any_fields_of_bits_gives_its_colours(bits, masks, upright):
    widths = [bin(mask).count("1") for mask in masks]
    rng = np.random.default_rng(6)
    shades = np.stack([rng.integers(0, 1 << width, (70, 65)) for width in widths], axis=2)
    content = bmp_of_fields(bits, masks, shades, upright)
    expected = [
        shades[:, :, i] >> (width - 8) if width > 8 else np.rint(shades[:, :, i] * (255 / ((1 << width) - 1)))
        for i, width in enumerate(widths)
    ]
    np.testing.assert_array_equal(decode(content).pixels, np.stack(expected, axis=2).astype(np.uint8))
    padding_bytes = 65 * bits // 8 % 4
    np.testing.assert_array_equal(decode(content[: len(content) - padding_bytes]).pixels, decode(content).pixels)
    assert error_of(content[: -padding_bytes - 1]).code is ErrorCode.TRUNCATED
    assert error_of(content[: len(content) // 2]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("masks", [(0xF00, 0xF0, 0xF, 0xF000), (0x7C00, 0x3E0, 0x1F, 0x8000)])
def test_a_bmp_of_fields_with_alpha_is_on_white(masks):
    most = [mask // (mask & -mask) for mask in masks]
    shades = np.random.default_rng(7).integers(0, 1 + np.array(most), (70, 65, 4))
    expected = on_white(shades[:, :, :3] * 255 / most[0], shades[:, :, 3] * 255 / most[3])
    assert np.abs(decode(bmp_of_fields(16, masks, shades, head_bytes=56)).pixels - expected).max() <= 1


def test_a_bmp_of_fields_that_are_none_is_not_called_damaged():
    content = bmp_of_fields(32, (0xFF, 0xFF00, 0xFF0000), RGB).replace(
        struct.pack("<I", 0xFF), struct.pack("<I", 0xF0F)
    )
    assert error_of(content).code is ErrorCode.UNSUPPORTED_PIXELS


def bmp_of_indices(bits, packing, data, colours, height=70, width=65):
    """A BMP of 4 or 8 bits with a palette of (N, 3)."""
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(data), 0, 0, len(colours), 0)
    palette = b"".join(bytes([blue, green, red, 0]) for red, green, blue in colours.tolist())
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + about + palette + data


TWO_GREYS, RAMP = np.array([[0] * 3, [255] * 3]), np.arange(16)[:, None].repeat(3, axis=1)


@pytest.mark.parametrize(
    ("bits", "colours"), [(8, TWO_GREYS), (4, TWO_GREYS), (4, RAMP), (8, RAMP), (1, TWO_GREYS[:1])]
)
def test_a_bmp_whose_palette_is_greys_alone_is_of_as_many_bits_as_it_says(bits, colours):
    indices = np.random.default_rng(8).integers(0, len(colours), (70, 64), dtype=np.uint8)
    bit_rows = np.unpackbits(indices[::-1, :, None], axis=2)[:, :, -bits:].reshape(70, -1)
    content = bmp_of_indices(bits, 0, np.packbits(bit_rows, axis=1).tobytes(), colours, width=64)
    np.testing.assert_array_equal(decode(content).pixels, colours[indices])


@pytest.mark.parametrize("height", [70, -70])
@pytest.mark.parametrize(("bits", "packing"), [(4, 2), (8, 1)])
def test_run_lengths_of_a_bmp_are_not_read_and_not_called_damaged(bits, packing, height):
    data = b"\x41\x22\0\0" * 70 + b"\0\1"  # one run of 65 px a row
    error = error_of(bmp_of_indices(bits, packing, data, RAMP, height=height))
    assert error.code is ErrorCode.UNSUPPORTED_PIXELS and "run-length" in error.message


# CMYK.

INKS = np.random.default_rng(5).integers(0, 256, (12, 16, 4), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def cmyk_to_rgb(inks):
    inks = inks.astype(np.float64)
    return (255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_is_paper_less_ink(adobe):
    buffer = io.BytesIO()
    Image.frombytes("CMYK", (128, 96), INKS.tobytes()).save(buffer, "JPEG", quality=100)
    content = buffer.getvalue()
    marker = re.search(rb"\xff\xee\x00\x0eAdobe.{7}", content, re.DOTALL)
    assert marker, "Pillow writes CMYK as Adobe does: inverted, and says so"
    if not adobe:
        # Without the marker the inks are inverted all the same, as every program that writes such files does it.
        content = content[: marker.start()] + content[marker.end() :]
    assert np.abs(decode(content).pixels - cmyk_to_rgb(INKS)).max() <= 5


@pytest.mark.parametrize("name", ["tiff", "tiff lzw"])
def test_cmyk_tiff_is_paper_less_ink(name):
    image = Image.frombytes("CMYK", (128, 96), INKS.tobytes())
    assert np.abs(decode(save(image, name)).pixels - cmyk_to_rgb(INKS)).max() <= 2


# Orientation.

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""By EXIF orientation: what makes the stored pixels upright (EXIF 2.32, page 37)."""


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def images_by_mode():
    rgba, grey_alpha = Image.fromarray(RGB), Image.fromarray(GREY)
    rgba.putalpha(Image.fromarray(ALPHA))
    grey_alpha.putalpha(Image.fromarray(ALPHA))
    return {
        "RGB": Image.fromarray(RGB),
        "L": Image.fromarray(GREY),
        "RGBA": rgba,
        "LA": grey_alpha,
        "P": Image.fromarray(RGB).quantize(50),
        "I;16": Image.fromarray(WIDE),
        "CMYK": Image.frombytes("CMYK", (128, 96), INKS.tobytes()),
    }


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("png", ["RGB", "L", "RGBA", "LA", "P", "I;16"]),
        ("tiff", ["RGB", "RGBA", "P", "I;16", "CMYK"]),
        ("tiff lzw", ["RGB", "RGBA", "I;16"]),
        ("jpeg", ["RGB", "L", "CMYK"]),
        ("mpo", ["RGB"]),
        ("avif", ["RGB", "RGBA"]),
    ],
)
def test_every_orientation_is_made_upright(name, modes, orientation):
    for mode in modes:
        stored = decode(save(images_by_mode()[mode], name)).pixels
        turned = decode(save(images_by_mode()[mode], name, exif=with_orientation(orientation)))
        np.testing.assert_array_equal(turned.pixels, UPRIGHT[orientation](stored), err_msg=mode)


def test_a_tiff_is_not_turned_in_memory_and_its_exif_is_not_read(monkeypatch):
    content = grey_tiff(GREY.tobytes(), 8, 1, _274=6, _34665=8)  # the directory itself
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", None)
    monkeypatch.setattr(Image.Exif, "get_ifd", None)
    decoded = decode(content)
    assert (decoded.stored.size, decoded.size) == ((128, 96), (96, 128))
    np.testing.assert_array_equal(decoded.pixels, UPRIGHT[6](grey_to_rgb(GREY)))


XMP = b'<rdf:Description tiff:Orientation="6"/>'
EXIF_AS_TEXT = b"Raw profile type exif\0\nexif\n 1\n" + with_orientation(6).tobytes().hex().encode()


@pytest.mark.parametrize("name", ["png", "webp", "avif", "tiff"])
def test_orientation_is_exifs_alone(name):
    if name == "png":
        content = save(RGB, name)
        texts = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"tEXt", EXIF_AS_TEXT)
        content = content[:33] + texts + content[33:]
    elif name == "tiff":
        content = save(RGB, name, tiffinfo={700: XMP})
    else:
        content = save(RGB, name, xmp=XMP)
    assert XMP in content
    np.testing.assert_array_equal(decode(content).pixels, decode(save(RGB, name)).pixels)


def test_of_a_pngs_exif_the_first_before_its_pixels_is_read():
    def exif(orientation):
        return chunk(b"eXIf", with_orientation(orientation).tobytes()[6:])

    pixels = chunk(b"IDAT", png_data(RGB))
    for before, after, orientation in (
        ((exif(6), exif(3)), (), 6),
        ((chunk(b"eXIf", with_orientation(3).tobytes()), exif(6)), (), 6),  # named as a JPEG's is
        ((damaged(exif(3)), exif(6)), (), 6),
        ((damaged(exif(3)),), (), 1),
        ((), (exif(6),), 1),
    ):
        found = decode(png_of(png_head(RGB), *before, pixels, *after, PNG_END)).pixels
        np.testing.assert_array_equal(found, UPRIGHT[orientation](RGB))


def entry(tag, kind, count, value):
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


@pytest.mark.parametrize("name", ["jpeg", "png"])
@pytest.mark.parametrize(
    ("entries", "orientation"),
    [
        ([entry(0x0112, 3, 1, b"\6")], 6),
        ([entry(0x010F, 2, 2**32 - 1, b"\xff\xff\xff\xff"), entry(0x0112, 3, 1, b"\6")], 6),
        ([entry(0x9286 + i, 1, 60_000, b"\x08") for i in range(300)], 1),
        ([entry(0x0112, 3, 2**31, b"\x08")], 1),
        ([entry(0x0112, 3, 2, b"\6\0\6")], 1),
        ([entry(0x0112, 2, 2, b"6")], 1),
        ([entry(0x0112, 11, 1, struct.pack("<f", 6))], 1),
    ],
)
def test_of_exif_nothing_but_the_orientation_is_read(name, entries, orientation):
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    upright = decode(save(RGB, name)).pixels
    np.testing.assert_array_equal(decode(save(RGB, name, exif=exif)).pixels, UPRIGHT[orientation](upright))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation):
    content = save(RGB, "png", exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode(content).pixels, RGB)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_metadata_does_not_make_pixels_unreadable(name, exif):
    np.testing.assert_array_equal(decode(save(RGB, name, exif=exif)).pixels, decode(save(RGB, name)).pixels)


def avif_of_exif(exif, **options):
    """An AVIF, of a word of EXIF for as many bytes as there are."""
    made_by = entry(0x010F, 2, 4, b"abc\0")
    placed = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + made_by + bytes(4)
    content = save(RGB, "avif", exif=b"Exif\0\0" + placed, **options)
    at = content.rindex(placed[:14])
    return content[:at] + exif + content[at + len(exif) :]


@pytest.mark.parametrize("exif", [b"II*\0", b"XX*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", bytes(26)])
@pytest.mark.parametrize("is_animated", [False, True])
def test_of_an_avif_no_exif_is_read(exif, is_animated):
    options = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]} if is_animated else {}
    content = avif_of_exif(exif, **options)
    assert b"infe\2\0\0\0\0\2\0\0Exif" in content
    np.testing.assert_array_equal(decode(content).pixels, decode(save(RGB, "avif", **options)).pixels)


def test_an_avif_is_turned_by_its_own_boxes_whatever_its_exif_says():
    turned = avif_of_exif(b"II*\0\x08\0\0\0\1\0" + entry(0x0112, 3, 1, b"\6"))
    np.testing.assert_array_equal(decode(turned).pixels, decode(save(RGB, "avif")).pixels)


def test_a_webp_is_not_turned():
    # As browsers have it, whatever its EXIF says.
    np.testing.assert_array_equal(decode(save(RGB, "webp", exif=with_orientation(6))).pixels, RGB)


def test_an_avif_whose_exif_is_left_out_is_otherwise_what_it_was():
    content = avif_of_exif(b"II*\0")
    box = content.index(b"meta") - 4
    end = box + int.from_bytes(content[box : box + 4], "big")
    track = (
        struct.pack(">I4s", end - box + 16, b"moov") + struct.pack(">I4s", end - box + 8, b"trak") + content[box:end]
    )
    for whole in (content, content[:box] + track + content[box:]):
        plain = avif._plain(whole)
        assert plain.count(b"skipExif\0") == whole.count(b"infe\2\0\0\0\0\2\0\0ExifExif\0")
        assert plain.replace(b"skipExif\0", b"ExifExif\0") == whole
    without = save(RGB, "avif")
    assert avif._plain(without) is without, "a copy would lie beside the pixels while they are decoded"


@pytest.mark.parametrize("kind", [b"iref", b"idat", b"iprp", b"free", b"infe"])
@pytest.mark.parametrize("entry", [b"infe\2\0\0\0\0\2\0\0Exif", b"infe\3\0\0\0\0\0\0\2\0\0Exif"])
def test_numbers_and_pixels_of_an_avif_that_look_like_an_item_of_exif_are_left_as_they_are(kind, entry):
    content = save(RGB, "avif")
    box = content.index(b"meta") - 4
    end = box + int.from_bytes(content[box : box + 4], "big")
    inside = content[box + 8 : end] + struct.pack(">I4s", 8 + len(entry), kind) + entry
    content = content[:box] + struct.pack(">I4s", 8 + len(inside), b"meta") + inside + content[end:]
    assert avif._plain(content) is content


# Files of more than one picture.


@pytest.mark.parametrize("name", ["gif", "png", "webp", "tiff", "mpo", "avif"])
def test_of_many_pictures_the_first_is_read(name):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    if name == "gif":
        first, second = first.quantize(50), second.quantize(50)
        content = encode_gif(first, save_all=True, append_images=[second])
        alone = encode_gif(first)
    else:
        content = save(first, name, save_all=True, append_images=[second])
        alone = save(Image.fromarray(RGB), name)
    assert len(content) > len(alone)
    difference = decode(content).pixels.astype(int) - decode(alone).pixels
    assert np.abs(difference).mean() <= (3 if name == "avif" else 0)


@pytest.mark.parametrize("transparent", [None, 7])
@pytest.mark.parametrize("is_grey", [False, True])
def test_canvas_that_a_gifs_first_picture_leaves_open_is_white(transparent, is_grey):
    picture = Image.fromarray(GREY) if is_grey else Image.fromarray(RGB).quantize(50)
    options = {} if transparent is None else {"transparency": transparent}
    content = encode_gif(picture, **options)
    alone = decode(content).pixels
    place = b",\0\0\0\0" + struct.pack("<HH", 128, 96)
    assert content.count(place) == 1
    placed = content.replace(place, struct.pack("<cHHHH", b",", 10, 12, 128, 96))
    expected = np.full((120, 150, 3), 255, np.uint8)
    expected[12:108, 10:138] = alone
    np.testing.assert_array_equal(decode(placed[:6] + struct.pack("<HH", 150, 120) + placed[10:]).pixels, expected)


def test_canvas_that_a_webps_first_picture_leaves_open_is_white():
    content = save(RGB, "webp", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    np.testing.assert_array_equal(decode(content).pixels, RGB)
    assert content[12:16] == b"VP8X" and not content[20] & 0x10, "no picture has alpha"
    expected = np.full((120, 150, 3), 255, np.uint8)
    expected[:96, :128] = RGB
    larger = content[:24] + (149).to_bytes(3, "little") + (119).to_bytes(3, "little") + content[30:]
    np.testing.assert_array_equal(decode(larger).pixels, expected)


def frame(number):
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 128, 96, 0, 0, 1, 10, 0, 0))


def frame_data(number, pixels):
    return chunk(b"fdAT", struct.pack(">I", number) + pixels)


ANIMATED = chunk(b"acTL", struct.pack(">II", 1, 0))
FIRST, SECOND = chunk(b"IDAT", png_data(RGB)), png_data(255 - RGB)
HIDING = (FIRST, frame(0), frame_data(1, SECOND))


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        ((ANIMATED, *HIDING), ErrorCode.UNSUPPORTED_FORMAT),
        ((ANIMATED, chunk(b"acTL", bytes(8)), *HIDING), ErrorCode.UNSUPPORTED_FORMAT),
        ((ANIMATED, damaged(frame(0)), *HIDING), ErrorCode.UNSUPPORTED_FORMAT),
        ((ANIMATED, FIRST), ErrorCode.UNSUPPORTED_FORMAT),
        ((ANIMATED, frame(0), frame_data(1, SECOND), FIRST), ErrorCode.UNSUPPORTED_FORMAT),
        ((ANIMATED, frame(0), frame(1), frame_data(2, SECOND), FIRST), ErrorCode.UNSUPPORTED_FORMAT),
        ((frame_data(1, SECOND), FIRST), RGB),
        ((ANIMATED, frame(0), FIRST, frame(1), frame_data(2, SECOND)), RGB),
        ((frame(0), ANIMATED, FIRST, frame(1), frame_data(2, SECOND)), RGB),
        (HIDING, RGB),
        ((FIRST, ANIMATED, *HIDING[1:]), RGB),
        ((damaged(ANIMATED), *HIDING), RGB),
        ((chunk(b"acTL", bytes(8)), *HIDING), RGB),
        ((chunk(b"acTL", struct.pack(">II", 1 << 31, 0)), *HIDING), RGB),
        ((chunk(b"acTL", b"\0\0\0\1"), *HIDING), RGB),
    ],
)
def test_an_animated_png_is_read_where_its_picture_is_what_browsers_show_first(chunks, shown):
    content = png_of(png_head(RGB), *chunks, PNG_END)
    if isinstance(shown, ErrorCode):
        assert error_of(content).code is shown
    else:
        np.testing.assert_array_equal(decode(content).pixels, shown)


# What is beside the pixels, and damaged.

TEXT = chunk(b"tEXt", b"Software\0x")


@pytest.mark.parametrize(
    "beside",
    [
        damaged(TEXT),
        damaged(chunk(b"prVt", b"x")),
        *(chunk(kind, b"\0") for kind in (b"pHYs", b"gAMA", b"cHRM", b"acTL", b"fcTL")),
        chunk(b"sRGB", b""),
        chunk(b"iCCP", b"a\0\1junk"),
        chunk(b"iCCP", b"abc"),
        chunk(b"zTXt", b"a\0\xffjunk"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 << 20))) * 20,
    ],
    ids=lambda beside: beside[4:8].decode(),
)
def test_what_a_png_holds_beside_its_pixels_does_not_make_them_unreadable(beside):
    content = save(RGB, "png")
    np.testing.assert_array_equal(decode(content[:33] + beside + content[33:]).pixels, RGB)
    np.testing.assert_array_equal(decode(content[:-12] + beside + content[-12:]).pixels, RGB)


@pytest.mark.parametrize(
    "end",
    [damaged(PNG_END), chunk(b"IEND", b"long"), b"junk" + PNG_END, PNG_END[:-1], bytes(9), b""],
    ids=["wrong checksum", "with data", "behind junk", "cut", "zeros", "none"],
)
def test_how_a_png_ends_behind_its_pixels_does_not_matter(end):
    content = save(RGB, "png")
    np.testing.assert_array_equal(decode(content[:-12] + end).pixels, RGB)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_damage_to_what_a_pngs_pixels_are_made_of_is_an_error(kind):
    content = save(Image.fromarray(RGB).quantize(50), "png")
    at = content.index(kind)
    end = at + 4 + int.from_bytes(content[at - 4 : at], "big")
    assert error_of(content[:end] + bytes(4) + content[end + 4 :]).code is ErrorCode.CORRUPT


def test_an_indexed_png_without_a_palette_is_an_error_also_where_a_part_of_it_is_read():
    indices = [bytes(600)] * 600
    assert error_of(png(600, 600, 8, 3, indices)).code is ErrorCode.CORRUPT
    assert decode(png(600, 600, 8, 3, indices, chunk(b"PLTE", b"\x07" * 3))).crop((0, 0, 512, 512)).max() == 7


def test_an_avif_whose_head_says_its_size_in_64_bits_is_read():
    content = save(RGB, "avif")
    assert content[:4] == struct.pack(">I", 32)
    head = struct.pack(">I4sQ", 1, b"ftyp", 32) + b"avif" + bytes(4) + b"avifmif1"
    np.testing.assert_array_equal(decode(head + content[32:]).pixels, decode(content).pixels)
