"""JPEGs that are odd and whole: the pixels that Pillow gives, and an error as soon as any are missing."""

import io
import re
import struct
from itertools import pairwise

import numpy as np
import pytest
import simplejpeg
from formats import GREY, RGB, error_of, save
from PIL import Image

from mdmf_ops.detector import ErrorCode, ImageError, decode
from mdmf_ops.images.jpeg_pixels import PlainJpeg, _by_pillow
from mdmf_ops.images.pieces import JPEG_END, JPEG_SCAN, jpeg_segments

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


def exif(*entries):
    """EXIF of entries of tag, type, count and value."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


TURNED = exif((0x112, 3, 1, 6))  # by a quarter
XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    ("marker", "broken"),
    [
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"MPF\0II"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
        (0xE1, exif((0x11A, 1, 1, 0), (0x128, 3, 1, 2))),
        (0xE1, XMP),
    ],
)
@pytest.mark.parametrize("name", ["RGB", "progressive"])
def test_broken_metadata_make_no_pixel_unreadable(name, marker, broken):
    [jfif, *_] = jpeg_segments(CLEAN[name])
    head, rest = CLEAN[name][:2], CLEAN[name][jfif.end :]
    np.testing.assert_array_equal(
        decode(head + segment(marker, broken) + rest).pixels, decode(head + rest).pixels, err_msg=f"{broken}"
    )


def test_orientation_is_that_of_exif_alone_whatever_stands_beside_it():
    head, rest = CLEAN["RGB"][:2], CLEAN["RGB"][2:]
    turned = decode(CLEAN["RGB"]).pixels.transpose(1, 0, 2)[:, ::-1]
    for beside in (b"", segment(0xE0, b"JFIF"), segment(0xE1, XMP.replace(b"6", b"3"))):
        np.testing.assert_array_equal(decode(head + beside + segment(0xE1, TURNED) + rest).pixels, turned)


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


def odd_parameters(content):
    """A sequential file whose scan says that it is of no coefficients: libjpeg warns, and reads them all."""
    scan = content.index(b"\xff\xda")
    at = scan + 5 + 2 * content[scan + 4]
    return content[:at] + bytes(3) + content[at + 3 :]


STRAY = b"\1\2stray bytes, more than are read ahead"


def between_scans(content, number):
    """The file with stray bytes behind one of its scans."""
    pieces = list(jpeg_segments(content))
    ends = [after.start - 4 for scan, after in pairwise(pieces) if scan.kind == JPEG_SCAN]
    return content[: ends[number]] + STRAY + content[ends[number] :]


RESTARTS = save(RGB, "jpeg", restart_marker_blocks=3)
ODD_SCANS = {
    "parameters": (odd_parameters(CLEAN["RGB"]), CLEAN["RGB"]),
    "parameters grey": (odd_parameters(CLEAN["L"]), CLEAN["L"]),
    "parameters restarts": (odd_parameters(RESTARTS), RESTARTS),
    "stray": (between_scans(CLEAN["progressive"], 0), CLEAN["progressive"]),
    "stray later": (between_scans(CLEAN["progressive"], 6), CLEAN["progressive"]),
    "stray restarts": (between_scans(save(RGB, "jpeg progressive", restart_marker_rows=2), 3), CLEAN["progressive"]),
}
"""Files of which libjpeg says what is harmless, and nothing of what follows; and those of the same pixels without."""


def runs(content):
    """Where the runs of data lie that a scan is made of, between its restart marks."""
    pieces = list(jpeg_segments(content))
    for scan, after in pairwise(pieces):
        if scan.kind == JPEG_SCAN:
            end = after.start - (2 if after.kind == JPEG_END else 4)
            marks = [(mark.start(), mark.end()) for mark in re.finditer(rb"\xff[\xd0-\xd7]", content[:end])]
            marks = [mark for mark in marks if mark[0] > scan.end]
            yield from zip([scan.end, *(mark[1] for mark in marks)], [*(mark[0] for mark in marks), end], strict=True)


@pytest.mark.parametrize("name", ODD_SCANS)
def test_odd_scans_change_no_pixel(name):
    odd, clean = ODD_SCANS[name]
    np.testing.assert_array_equal(decode(odd).pixels, decode(clean).pixels)
    np.testing.assert_array_equal(decode(odd).pixels, pillows(odd))
    np.testing.assert_array_equal(decode(odd[:-2] + b"stray bytes" + odd[-2:]).pixels, pillows(odd))
    np.testing.assert_array_equal(decode(odd[:-2] + b"\xff\xff" + odd[-2:]).pixels, pillows(odd))


@pytest.mark.parametrize("name", ODD_SCANS)
def test_odd_scans_hide_no_missing_pixel(name):
    odd, _ = ODD_SCANS[name]
    with_data = [(start, end) for start, end in runs(odd) if end - start > 40 and not odd[:end].endswith(STRAY)]
    assert len(with_data) > 5 or "restarts" not in name
    for start, end in with_data:
        for missing in (6, (end - start) // 3, end - start - 1):
            data = odd[: end - missing].rstrip(b"\xff")
            # Where the data of a run end early, its scan, or the file.
            for cut in (data + odd[end:], data + b"\xff\xff" + odd[end:], data + b"\xff\1" + odd[end:], data):
                assert error_of(cut).code is ErrorCode.TRUNCATED, f"{missing} bytes before {end} of {len(odd)}"


def test_odd_scans_hide_no_missing_restart():
    odd, _ = ODD_SCANS["parameters restarts"]
    marks = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", odd)]
    assert len(marks) > 9
    for missing in (1, 2, 8, len(marks) - 1):
        assert error_of(odd[: marks[0]] + odd[marks[missing] :]).code in (ErrorCode.CORRUPT, ErrorCode.TRUNCATED)
        assert error_of(odd[: marks[-missing]] + odd[-2:]).code is ErrorCode.TRUNCATED
    assert error_of(odd[: marks[0] + 1] + b"\xd4" + odd[marks[0] + 2 :]).code is ErrorCode.CORRUPT


@pytest.mark.parametrize("name", ODD_SCANS)
def test_odd_scans_hide_no_zeros_in_place_of_an_end(name):
    odd, _ = ODD_SCANS[name]
    *_, (start, end) = runs(odd)
    assert error_of(odd[: (start + end) // 2] + bytes(end) + odd[end:]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("what", [segment(0xFE, b"a comment"), segment(0xE1, TURNED), segment(0xE0, b"JFIF\0")])
@pytest.mark.parametrize("name", CLEAN)
def test_metadata_amid_a_scans_data_end_them_as_in_any_viewer(name, what):
    *_, (start, end) = runs(CLEAN[name])
    middle = (start + end) // 2
    if CLEAN[name][middle - 1] == 0xFF:
        middle += 1
    assert error_of(CLEAN[name][:middle] + what + CLEAN[name][middle:]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("name", [*CLEAN, "restarts"])
def test_a_file_that_lacks_its_end_mark_alone_is_whole(name):
    content = CLEAN.get(name, RESTARTS)
    np.testing.assert_array_equal(decode(content[:-2]).pixels, decode(content).pixels)
    np.testing.assert_array_equal(decode(content[:-1]).pixels, decode(content).pixels)
    for missing in range(1, 40):
        for end in (b"", bytes(2), bytes(missing + 2), bytes(1000)):
            assert error_of(content[: -2 - missing] + end).code is ErrorCode.TRUNCATED


def test_arithmetic_code_does_not_tell_that_its_end_is_missing():
    # Whatever the bytes, they are arithmetic code.
    content = CLEAN["RGB"].replace(b"\xff\xc0", b"\xff\xc9", 1)
    np.testing.assert_array_equal(decode(content).pixels, pillows(content))
    for missing in (2, 3, 500):
        assert error_of(content[:-missing]).code is ErrorCode.TRUNCATED


@pytest.mark.parametrize("name", CLEAN)
def test_a_file_without_anything_to_leave_out_is_not_copied(name):
    # A copy would lie beside the pixels while they are decoded.
    assert PlainJpeg(io.BytesIO(CLEAN[name])).plain is CLEAN[name]
    comment = CLEAN[name][:2] + segment(0xFE, b"a comment") + CLEAN[name][2:]
    assert PlainJpeg(io.BytesIO(comment)).plain == CLEAN[name]


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
