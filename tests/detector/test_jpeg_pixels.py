"""JPEGs with an odd head that are whole: the pixels that Pillow gives, and an error as soon as any are missing."""

import io

import numpy as np
import pytest
import simplejpeg
from formats import GREY, RGB, error_of, save
from PIL import Image

from mdmf_ops.detector import ErrorCode, ImageError, decode
from mdmf_ops.detector.jpeg_pixels import _by_pillow, _plain
from mdmf_ops.detector.pieces import JPEG_END, JPEG_SCAN, jpeg_segments

CLEAN = {
    "RGB": save(RGB, "jpeg"),
    "progressive": save(RGB, "jpeg progressive"),
    "L": save(GREY, "jpeg"),
    "CMYK": save(Image.fromarray(RGB).convert("CMYK"), "jpeg"),
}
STRAYS = (b"\0", b"\0\0", b"\1\2stray", b"\xff\0", b"\0\xff", b"\xff\xd0", b"\0" * 300)


def pillows(content):
    """(H, W, 3) uint8, by Pillow alone."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def outcome(content):
    try:
        return decode(content).pixels.tobytes()
    except ImageError as error:
        return error.code


def before(content, marker, what):
    """The file with bytes before the first segment of a kind."""
    at = content.index(bytes([0xFF, marker]))
    return content[:at] + what + content[at:]


def segment(marker, content):
    return bytes([0xFF, marker]) + (2 + len(content)).to_bytes(2, "big") + content


def jfif(version):
    at = CLEAN["RGB"].index(b"JFIF\0") + 5
    return CLEAN["RGB"][:at] + version + CLEAN["RGB"][at + 2 :]


def adobe(name, transform, *, after_the_frame=False):
    """A file whose colours Adobe's segment alone tells."""
    content = CLEAN[name]
    [first] = [piece for piece in jpeg_segments(content) if piece.kind in (0xE0, 0xEE)]
    content = content[:2] + content[first.end :]
    told = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    return before(content, 0xC4 if after_the_frame else 0xDB, told)


@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: f"{stray[:4].hex()}-{len(stray)}")
@pytest.mark.parametrize("marker", [0xDB, 0xC4, JPEG_SCAN], ids=hex)
@pytest.mark.parametrize("name", CLEAN)
def test_stray_bytes_of_a_head_change_no_pixel(name, marker, stray):
    content = before(CLEAN[name], marker, stray)
    np.testing.assert_array_equal(decode(content).pixels, pillows(content))
    np.testing.assert_array_equal(decode(content).pixels, decode(CLEAN[name]).pixels)


@pytest.mark.parametrize(("name", "frame"), [("RGB", 0xC0), ("progressive", 0xC2), ("CMYK", 0xC0)])
def test_stray_bytes_before_the_frame_change_no_pixel(name, frame):
    np.testing.assert_array_equal(decode(before(CLEAN[name], frame, b"\0")).pixels, decode(CLEAN[name]).pixels)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", b"Exif\0\0"])
def test_padding_after_a_segment_of_metadata_changes_no_pixel(exif):
    padded = CLEAN["RGB"][:2] + segment(0xE1, exif) + bytes(2) + CLEAN["RGB"][2:]
    np.testing.assert_array_equal(decode(padded).pixels, decode(CLEAN["RGB"]).pixels)


@pytest.mark.parametrize("version", [b"\2\1", b"\0\x09", b"\xff\xff", b"\1\3"])
def test_a_version_of_jfif_that_libjpeg_does_not_know_changes_no_pixel(version):
    np.testing.assert_array_equal(decode(jfif(version)).pixels, pillows(jfif(version)))
    np.testing.assert_array_equal(decode(jfif(version)).pixels, decode(CLEAN["RGB"]).pixels)


@pytest.mark.parametrize("after_the_frame", [False, True])
@pytest.mark.parametrize("transform", [0, 1, 2, 3, 7, 255])
@pytest.mark.parametrize("name", CLEAN)
def test_colours_that_adobes_segment_does_not_tell_are_those_of_pillow(name, transform, after_the_frame):
    content = adobe(name, transform, after_the_frame=after_the_frame)
    np.testing.assert_array_equal(decode(content).pixels, pillows(content))


@pytest.mark.parametrize(
    "short", [segment(0xEE, b"Adobe\0\x64\0\0\0"), segment(0xE0, b"JFIF\0\2\1\0\0\1"), b"\xff\xe0\0\0"]
)
def test_a_segment_too_short_to_say_anything_says_nothing(short):
    content = CLEAN["RGB"][:2] + short + CLEAN["RGB"][2:]
    np.testing.assert_array_equal(decode(content).pixels, pillows(content))


ODD = {
    "stray": (before(CLEAN["RGB"], JPEG_SCAN, b"\0"), CLEAN["RGB"]),
    "stray progressive": (before(CLEAN["progressive"], 0xDB, b"\0\0"), CLEAN["progressive"]),
    "version": (jfif(b"\2\1"), CLEAN["RGB"]),
    "adobe": (adobe("RGB", 7), adobe("RGB", 1)),
    "adobe cmyk": (adobe("CMYK", 7), adobe("CMYK", 2)),
}
"""Files with an odd head, and those of the same pixels without."""


@pytest.mark.parametrize("name", ODD)
def test_an_odd_head_hides_no_missing_pixel(name):
    odd, clean = ODD[name]
    for missing in np.linspace(4, len(clean) - clean.rindex(b"\xff\xda") - 14, 30, dtype=int):
        assert error_of(odd[:-missing]).code is ErrorCode.TRUNCATED
        assert error_of(odd[:-missing].rstrip(b"\xff") + b"\xff\xd9").code is ErrorCode.TRUNCATED
        padding = bytes(missing) + b"\xff\xd9"
        assert outcome(odd[:-missing] + padding) == outcome(clean[:-missing] + padding)


def test_an_odd_head_hides_no_damage():
    content = bytearray(before(save(RGB, "jpeg", restart_marker_rows=1), JPEG_SCAN, b"\0"))
    content[content.index(b"\xff\xd0") + 1] = 0xD4
    assert error_of(bytes(content)).code is ErrorCode.CORRUPT


@pytest.mark.parametrize("table", [b"\x03", b"\x30", b"\x33"])
def test_an_error_after_a_warning_is_an_error_and_no_pixels_of_whatever_was_in_memory(table):
    # The scan's first component has odd parameters, its second a table that there is not.
    content = bytearray(CLEAN["RGB"])
    scan = content.index(b"\xff\xda")
    content[scan + 8 : scan + 9] = table
    content[scan + 11 : scan + 14] = bytes(3)
    assert error_of(bytes(content)).code is ErrorCode.CORRUPT


def test_odd_parameters_of_a_scan_change_no_pixel():
    content = bytearray(CLEAN["RGB"])
    scan = content.index(b"\xff\xda")
    content[scan + 11 : scan + 14] = bytes(3)
    np.testing.assert_array_equal(decode(bytes(content)).pixels, decode(CLEAN["RGB"]).pixels)


@pytest.mark.parametrize("name", CLEAN)
def test_a_file_without_anything_to_leave_out_is_not_copied(name):
    # A copy would lie beside the pixels while they are decoded.
    mode = "RGB" if name == "progressive" else name
    assert _plain(CLEAN[name], mode) is CLEAN[name]
    comment = CLEAN[name][:2] + segment(0xFE, b"a comment") + CLEAN[name][2:]
    assert _plain(comment, mode) == CLEAN[name]


def sampled(*factors, shape=(150, 230), scans=3):
    """A JPEG whose components have these sampling factors, put together from three grey ones: a scan for each."""
    height_px, width_px = shape
    most = [max(axis) for axis in zip(*factors, strict=True)]
    frame, scans_data = bytes([8, *height_px.to_bytes(2, "big"), *width_px.to_bytes(2, "big"), 3]), b""
    for i, (across, down) in enumerate(factors):
        size = -(-width_px * across // most[0]), -(-height_px * down // most[1])
        grey = save(Image.fromarray(RGB[:, :, i]).resize(size), "jpeg")
        pieces = {piece.kind: piece for piece in jpeg_segments(grey)}
        frame += bytes([i + 1, across << 4 | down, 0])
        scan = segment(JPEG_SCAN, bytes([1, i + 1, 0, 0, 63, 0]))
        scans_data += scan + grey[pieces[JPEG_SCAN].end : pieces[JPEG_END].start - 2] if i < scans else b""
    tables = b"".join(grey[piece.start - 4 : piece.end] for piece in jpeg_segments(grey) if piece.kind in (0xDB, 0xC4))
    return b"\xff\xd8" + tables + segment(0xC0, frame) + scans_data + b"\xff\xd9"


UNNAMED = {
    "3x1": ((3, 1), (1, 1), (1, 1)),
    "1x3": ((1, 3), (1, 1), (1, 1)),
    "4x2": ((4, 2), (1, 1), (1, 1)),
    "1x4": ((1, 4), (1, 1), (1, 1)),
    "2x4": ((2, 4), (1, 1), (1, 1)),
    "two kinds of chroma": ((2, 2), (2, 1), (1, 1)),
    "more chroma than luma": ((1, 1), (2, 2), (1, 1)),
}
"""Sampling factors of JPEGs that any viewer shows, and that simplejpeg has no name for."""


@pytest.mark.parametrize("name", UNNAMED)
def test_chroma_sampled_in_a_rare_way_is_decoded_as_pillow_does(name):
    content = sampled(*UNNAMED[name])
    with pytest.raises((KeyError, ValueError)):
        simplejpeg.decode_jpeg_header(content)
    assert np.ptp(pillows(content)[:, :, 0]) > 50
    np.testing.assert_array_equal(decode(content).pixels, pillows(content))
    np.testing.assert_array_equal(decode(before(content, 0xC4, b"\0stray")).pixels, pillows(content))


def test_what_is_put_together_so_is_what_simplejpeg_decodes_as_well():
    content = sampled((2, 2), (1, 1), (1, 1))
    np.testing.assert_array_equal(decode(content).pixels, simplejpeg.decode_jpeg(content, "RGB"))


@pytest.mark.parametrize("name", UNNAMED)
def test_chroma_sampled_in_a_rare_way_hides_no_missing_pixel(name):
    content = sampled(*UNNAMED[name])
    scans = [piece.end for piece in jpeg_segments(content) if piece.kind == JPEG_SCAN]
    ends = [*[piece.start - 4 for piece in jpeg_segments(content) if piece.kind == JPEG_SCAN][1:], len(content) - 2]
    for start, end in zip(scans, ends, strict=True):
        for missing in np.linspace(3, end - start - 2, 10, dtype=int):
            data = content[: end - missing].rstrip(b"\xff")
            assert error_of(data).code is ErrorCode.TRUNCATED
            assert error_of(data + content[end:]).code is ErrorCode.TRUNCATED
    assert error_of(sampled(*UNNAMED[name], scans=2)).code is ErrorCode.TRUNCATED


def test_a_rare_jpeg_that_can_be_read_as_two_sizes_is_refused():
    content = sampled((3, 1), (1, 1), (1, 1))
    with pytest.raises(ImageError, match="two sizes: 229 x 150 and 230 x 150 px"):
        _by_pillow(content, (229, 150))
