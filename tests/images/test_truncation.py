"""Cut files: at many points of every format, an image that lacks any of its pixels is never decoded."""

import io
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from formats import FORMATS, GREY, RGB, encode_gif, error_of, png, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mdmf_ops.detector import ErrorCode, ImageError, decode
from mdmf_ops.images import truncation
from mdmf_ops.images.truncation import is_cut, lacks_pixels

CUTS = 60
"""Random cut points of a file, besides the first and the last bytes."""


def first_and_second():
    return Image.fromarray(RGB), Image.fromarray(255 - RGB)


def directory_first(content):
    """The same TIFF with its directory before its pixels, where Pillow puts it behind packed ones."""
    [start] = struct.unpack_from("<I", content, 4)
    [count] = struct.unpack_from("<H", content, start)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    entries = []
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from("<HHI", content, position)
        size = sizes[kind] * values
        at = position + 8 if size <= 4 else struct.unpack_from("<I", content, position + 8)[0]
        entries.append([tag, kind, values, content[at : at + size]])
    numbers = {tag: struct.unpack(f"<{n}{'xBxHI'[kind]}", data) for tag, kind, n, data in entries if kind in (3, 4)}
    strips = [content[o : o + n] for o, n in zip(numbers[273], numbers[279], strict=True)]
    end = 8 + 2 + 12 * count + 4
    values_bytes = sum(len(data) for *_, data in entries if len(data) > 4)
    begins = end + values_bytes + np.cumsum([0, *map(len, strips[:-1])])
    directory, values = struct.pack("<H", count), b""
    for tag, kind, n, data in entries:
        if tag == 273:
            assert kind == 4
            data = struct.pack(f"<{n}I", *begins)
        if len(data) > 4:
            values, data = values + data, struct.pack("<I", end + len(values))
        directory += struct.pack("<HHI", tag, kind, n) + data.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + values + b"".join(strips)


def tiff(image, compression, **options):
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression, **options)
    return directory_first(buffer.getvalue())


def contents():
    """Files of every format, by name."""
    image, _ = first_and_second()
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(GREY))
    indexed, black_and_white = image.quantize(64), image.convert("1")
    files = {name: save(image.copy(), name) for name in FORMATS if name != "mpo"}
    files |= {
        "jpeg grey": save(GREY, "jpeg"),
        "jpeg restarts": save(image.copy(), "jpeg", restart_marker_rows=1),
        "jpeg cmyk": save(image.convert("CMYK"), "jpeg"),
        "png palette": save(indexed, "png"),
        "png 16 bits": save(GREY.astype(np.uint16) * 257, "png"),
        "webp alpha": save(transparent, "webp"),
        "bmp palette": save(indexed, "bmp"),
        "bmp 1 bit": save(black_and_white, "bmp"),
        "avif alpha": save(transparent, "avif"),
        "gif": encode_gif(indexed),
        "gif not interlaced": encode_gif(indexed, interlace=False),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        files[f"strip first {compression}"] = tiff(image.copy(), compression)
        files[f"strips first {compression}"] = tiff(image.copy(), compression, strip_size=4096)
    for compression in ("group3", "group4", "tiff_ccitt"):
        files[f"fax {compression}"] = tiff(black_and_white, compression)
    return files


def animations():
    image, second = first_and_second()
    files = {
        name: save(image.copy(), name, save_all=True, append_images=[second.copy()])
        for name in ("png", "webp", "avif", "tiff", "mpo")
    }
    return files | {"gif": encode_gif(image.quantize(64), save_all=True, append_images=[second.quantize(64)])}


CONTENTS, ANIMATIONS = contents(), animations()
BEHIND_PIXELS_BYTES = {"gif": 2, "jpeg": 2, "png": 16}
"""At the end of a file, by the start of its name: end marks, and a checksum that nobody reads."""
LENGTH_UNKNOWN = ("bmp", "bmp palette", "bmp 1 bit")
"""Formats of which a header that was cut may be called damaged."""


def cuts(content, name):
    """Lengths to cut a file to: short ones, long ones, and random ones between."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    chosen = set(range(1, 24)) | set(range(len(content) - 12, len(content)))
    return sorted(chosen | set(rng.integers(24, len(content), CUTS).tolist()))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_cut_anywhere_is_an_error(name):
    content = CONTENTS[name]
    whole = decode(content).pixels
    allowed = {ErrorCode.TRUNCATED} | ({ErrorCode.CORRUPT} if name in LENGTH_UNKNOWN else set())
    for length in cuts(content, name):
        try:
            pixels = decode(content[:length]).pixels
        except ImageError as error:
            # Of a few bytes not even the format can be told.
            assert error.code in allowed or length < 20, f"cut to {length}: {error}"
        else:
            behind_bytes = BEHIND_PIXELS_BYTES.get(name.split()[0], 0)
            assert length >= len(content) - behind_bytes, f"{length} of {len(content)} bytes decoded"
            np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animation_cut_anywhere_gives_its_whole_first_picture_or_an_error(name):
    content = ANIMATIONS[name]
    whole = decode(content).pixels
    errors = 0
    for length in cuts(content, name):
        try:
            pixels = decode(content[:length]).pixels
        except ImageError:
            errors += 1
        else:
            np.testing.assert_array_equal(pixels, whole, err_msg=f"cut to {length}")
    assert errors > 20


def test_an_animated_png_that_is_cut_before_its_first_frame_is_called_cut():
    content = ANIMATIONS["png"]
    for length in range(content.index(b"acTL"), content.index(b"IDAT")):
        assert error_of(content[:length]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "gif"])
def test_a_download_that_ends_in_zeros_is_an_error(name):
    content = CONTENTS[name]
    for length in np.random.default_rng(1).integers(len(content) // 2, len(content) - 50, 20):
        padded = content[:length] + bytes(len(content) - length)
        assert error_of(padded).code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)


# Files that end as they should, and hold too few data: decoders fill up and say nothing.


@pytest.mark.parametrize("name", [name for name in CONTENTS if name.startswith("jpeg")])
def test_a_jpeg_whose_end_mark_comes_early_is_an_error(name):
    content = CONTENTS[name]
    scan = content.rindex(b"\xff\xda") + 14
    for length in np.linspace(scan, len(content) - 4, CUTS, dtype=int):
        # After a lone 0xFF the end mark would be data.
        cut = content[:length].rstrip(b"\xff") + b"\xff\xd9"
        assert error_of(cut).code is ErrorCode.TRUNCATED, f"cut to {length} of {len(content)} bytes"


def test_a_jpeg_that_lacks_whole_scans_is_an_error():
    content = CONTENTS["jpeg progressive"]
    starts = [found.start() for found in re.finditer(b"\xff[\xc4\xda]", content)]
    scans = [start for start in starts if content[start + 1] == 0xDA]
    assert len(scans) == 10
    for scan in scans[1:]:
        assert error_of(content[:scan] + b"\xff\xd9").code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive"])
def test_a_few_stray_bytes_before_the_end_mark_of_a_jpeg_do_not_matter(name):
    content = CONTENTS[name]
    stray = content[:-2] + b"stray bytes" + content[-2:]
    np.testing.assert_array_equal(decode(stray).pixels, decode(content).pixels)


def test_a_jpeg_that_ends_in_zeros_and_an_end_mark_is_an_error():
    content = CONTENTS["jpeg"]
    for length in np.linspace(len(content) // 4, len(content) - 1000, 20, dtype=int):
        padded = content[:length] + bytes(len(content) - 2 - length) + b"\xff\xd9"
        assert error_of(padded).code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)


def test_a_damaged_scan_is_an_error():
    content = bytearray(CONTENTS["jpeg restarts"])
    mark = content.index(b"\xff\xd0")
    content[mark + 1] = 0xD4
    assert error_of(bytes(content)).code is ErrorCode.CORRUPT


@pytest.mark.parametrize(
    ("depth", "colour", "pixel_bytes"), [(8, 2, 3), (8, 6, 4), (16, 2, 6), (8, 0, 1), (16, 0, 2), (8, 4, 2)]
)
@pytest.mark.parametrize("shade", [0, 200])
def test_a_png_with_too_few_rows_is_an_error_and_one_with_all_is_not(depth, colour, pixel_bytes, shade):
    rows = [bytes([shade]) * 70 * pixel_bytes] * 64
    assert decode(png(70, 64, depth, colour, rows)).size == (70, 64)
    for missing in (1, 10, 63):
        assert error_of(png(70, 64, depth, colour, rows[:-missing])).code is ErrorCode.TRUNCATED
    assert error_of(png(70, 64, depth, colour, [*rows[:-1], rows[-1][:-1]])).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("shade", [0, 200])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (67, 65), (71, 70)])
def test_an_interlaced_png_with_too_few_rows_is_an_error_and_one_with_all_is_not(width, height, shade):
    pixels = np.full((height, width), shade, np.uint8)
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in truncation._PNG_PASSES]
    rows = [row.tobytes() for part in passes for row in part]
    assert sum(map(len, rows)) == width * height
    np.testing.assert_array_equal(decode(interlaced(width, height, rows)).pixels[:, :, 0], pixels)
    for missing in (1, height // 4, len(rows) - 1):
        assert error_of(interlaced(width, height, rows[:-missing])).code is ErrorCode.TRUNCATED


def test_a_png_of_two_sizes_is_an_error():
    small, large = png(70, 64, 8, 0, [bytes(70)] * 64), png(70, 640, 8, 0, [])
    assert error_of(small[:33] + large[8:33] + small[33:]).code is ErrorCode.CORRUPT


@pytest.mark.parametrize("shade", [0, 200])
def test_a_png_without_its_end_needs_its_whole_stream(shade):
    content = png(70, 64, 8, 2, [bytes([shade]) * 210] * 64)[:-12]
    assert decode(content).size == (70, 64)
    checksum = len(content) - 8
    for damaged in (content[: checksum + 3], content[:checksum] + bytes(8), content[:checksum] + bytes(50)):
        assert error_of(damaged).code is ErrorCode.TRUNCATED
    # Zeros may be whatever code is the shortest, and fill every row.
    short = png(70, 64, 8, 2, [bytes([shade]) * 210] * 40)[:-12]
    for length in range(len(short) - 30, len(short)):
        assert error_of(short[:length] + bytes(400)).code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)


def test_a_pngs_data_are_inflated_without_a_copy_of_them():
    width = height = 1500
    rows = np.random.default_rng(8).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows[-1] = 0
    content = png(width, height, 8, 2, [row.tobytes() for row in rows])
    assert len(content) > 6_000_000
    black = Image.new("RGB", (width, height))
    black.format, black.plain = "PNG", content
    tracemalloc.start()
    assert not lacks_pixels(black, content)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3_000_000


def interlaced(width, height, rows):
    content = bytearray(png(width, height, 8, 0, rows))
    content[28] = 1
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("name", ["webp", "webp lossy", "webp alpha", "avif"])
def test_a_file_of_full_length_whose_end_was_never_written_is_an_error(name):
    content = CONTENTS[name]
    for length in np.linspace(len(content) // 2, len(content) - 200, 20, dtype=int):
        padded = content[:length] + bytes(len(content) - length)
        assert error_of(padded).code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT), f"{length} of {len(content)} bytes"


@pytest.mark.parametrize("name", [f"strip{s} first {p}" for s in ("", "s") for p in ("jpeg", "tiff_adobe_deflate")])
def test_a_strip_of_a_tiff_whose_end_was_never_written_is_an_error(name):
    content = CONTENTS[name]
    for missing in range(20, 2000, 60):
        assert error_of(content[:-missing] + bytes(missing)).code in (ErrorCode.TRUNCATED, ErrorCode.CORRUPT)


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("method", [0, 2, 4])
def test_a_webp_that_ends_in_one_colour_and_so_in_zeros_is_whole(shade, method):
    pixels = np.full((400, 400, 3), shade, np.uint8)
    pixels[:100] = np.random.default_rng(1).integers(0, 256, (100, 400, 3))
    content = save(pixels, "webp lossy", method=method)
    assert method or content.endswith(bytes(100)), "as many zeros as an unfinished download may have"
    assert decode(content).size == (400, 400)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_whole_file_is_not_called_cut(name):
    assert not is_cut(CONTENTS[name])


@pytest.mark.parametrize("name", CONTENTS)
def test_bytes_after_the_image_do_not_matter(name):
    np.testing.assert_array_equal(decode(CONTENTS[name] + bytes(100)).pixels, decode(CONTENTS[name]).pixels)


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "avif", "tiff lzw"])
def test_a_damaged_file_is_told_from_a_cut_one(name):
    content = CONTENTS[name]
    assert not is_cut(content[:-40] + bytes(20) + content[-20:])
    assert is_cut(content[: len(content) // 2])


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_jpeg():
    content = save(RGB, "jpeg", exif=b"Exif\0\0" + Image.Exif().tobytes() + b"\xff\xd8 a thumbnail \xff\xd9")
    assert content.count(b"\xff\xd9") == 2
    assert error_of(content[:-40] + bytes(40)).code is ErrorCode.TRUNCATED


def test_boxes_of_64_bits_and_to_the_end_of_the_file_are_followed():
    head = struct.pack(">I4s4sI", 16, b"ftyp", b"avif", 0)
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 100)
    assert not is_cut(head + large + bytes(100))
    assert is_cut(head + large + bytes(99))
    assert is_cut(head), "the pixels are not there at all"
    assert not is_cut(head + struct.pack(">I4s", 0, b"mdat") + bytes(50))


_HEADS = [
    b"\xff\xd8",
    b"\x89PNG",
    b"GIF89a",
    b"RIFF",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x14ftyp",
    b"\0\0\0\x01ftyp",
    b"",
]


@given(st.sampled_from(_HEADS), st.binary(max_size=200))
def test_any_bytes_are_cut_or_not_and_no_exception(head, rest):
    assert is_cut(head + rest) in (True, False)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.sampled_from([0, 2, 4, 6]))
def test_a_png_lacks_rows_exactly_where_fewer_bytes_come_than_its_rows_have(width, height, missing, colour):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    raw = (b"\0" + bytes(width * channels)) * height
    data = zlib.compress(raw[: max(0, len(raw) - missing)])
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )
    black = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    black.format, black.plain = "PNG", content
    assert lacks_pixels(black, content) == (missing > 0)
