"""Bytes to pixels: every format, mode and orientation against numpy."""

import io
import re
import struct

import numpy as np
import pytest
from formats import BROKEN_EXIF, GREY, LOSSLESS, LOSSY, RGB, chunk, encode_gif, error_of, grey_to_rgb, png, save
from PIL import Image

from mdmf_ops.detector import ErrorCode, decode

WIDE = np.random.default_rng(2).integers(0, 1 << 16, (96, 128), dtype=np.uint16)


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
def test_16_bits_are_scaled_not_clipped(name):
    expected = np.rint(WIDE.astype(np.float64) / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(save(WIDE, name)).pixels, grey_to_rgb(expected))


def test_16_bits_of_either_byte_order_are_the_same():
    big = Image.frombytes("I;16B", (128, 96), WIDE.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(save(big, "tiff")).pixels, decode(save(WIDE, "tiff")).pixels)


def test_16_bits_a_channel_are_scaled():
    wide = np.random.default_rng(3).integers(0, 1 << 16, (96, 128, 3)).astype(">u2")
    pixels = decode(png(128, 96, 16, 2, [row.tobytes() for row in wide])).pixels
    assert np.abs(pixels - wide / 257.0).max() <= 1


def test_a_transparent_shade_of_16_bits_is_white():
    shades = np.random.default_rng(4).integers(1000, 1004, (96, 128)).astype(">u2")
    transparent = chunk(b"tRNS", struct.pack(">H", 1002))
    pixels = decode(png(128, 96, 16, 0, [row.tobytes() for row in shades], transparent)).pixels
    np.testing.assert_array_equal(pixels, grey_to_rgb(np.where(shades == 1002, 255, 4).astype(np.uint8)))


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
        ("webp", ["RGB", "RGBA"]),
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


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation):
    content = save(RGB, "png", exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode(content).pixels, RGB)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_metadata_does_not_make_pixels_unreadable(name, exif):
    np.testing.assert_array_equal(decode(save(RGB, name, exif=exif)).pixels, decode(save(RGB, name)).pixels)


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
