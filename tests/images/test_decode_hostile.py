"""Files of strangers: each limit before decoding, every broken file its error, nothing global changed."""

import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import BROKEN, encode, photo
from formats import BROKEN_EXIF, FORMATS, RGB, chunk, encode_gif, error_of, png, save
from PIL import Image, ImageFile

from mdmf_ops.detector import ErrorCode, ImageError, Limits, decode
from mdmf_ops.images.decode import _PLUGINS, PlainWebp
from mdmf_ops.images.pieces import webp_size

# What the name says does not matter, what the content is does.


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty.jpg", ErrorCode.EMPTY),
        ("text.jpg", ErrorCode.UNSUPPORTED_FORMAT),
        ("page.png", ErrorCode.UNSUPPORTED_FORMAT),
        ("half.jpg", ErrorCode.TRUNCATED),
        ("half.png", ErrorCode.TRUNCATED),
        ("half.webp", ErrorCode.TRUNCATED),
        ("noise.bin", ErrorCode.UNSUPPORTED_FORMAT),
        ("tiny.png", ErrorCode.TOO_SMALL),
        ("header.jpg", ErrorCode.TRUNCATED),
        ("zeros.tiff", ErrorCode.UNSUPPORTED_FORMAT),
    ],
)
def test_a_broken_file_is_an_error_with_its_code(name, code):
    assert error_of(BROKEN[name]).code is code


def test_every_broken_file_is_tested_above():
    marks = test_a_broken_file_is_an_error_with_its_code.pytestmark
    assert {name for name, _ in marks[0].args[1]} == BROKEN.keys()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "PostScript"),
        (b"\xef\xbb\xbf <svg/>", "SVG"),
        (b"PK\x03\x04....", "ZIP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "starts with 52 49 46 46"),
        (b"GIF90a", "starts with 47 49 46"),
    ],
)
def test_another_format_is_named(content, what):
    error = error_of(content + bytes(200))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert what in error.message


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_changed_at_random_are_pixels_or_an_error_and_nothing_else(name):
    content = save(RGB, name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(30):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 8):
            damaged[position] = rng.integers(256)
        try:
            pixels = decode(bytes(damaged)).pixels
        except ImageError as error:
            assert error.message
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


# Limits.


def resized_header(name, width, height):
    """A small image whose header promises width x height."""
    if name == "gif":
        content = encode_gif(Image.fromarray(RGB).quantize(50))
        size, promised = struct.pack("<HH", 128, 96), struct.pack("<HH", width, height)
    elif name == "png":
        # One bit a pixel, all there: 13000 x 13000 are 20 KB of file.
        return png(width, height, 1, 0, [bytes(-(-width // 8))] * height)
    elif name == "bmp":
        content = save(RGB, name)
        size, promised = struct.pack("<ii", 128, 96), struct.pack("<ii", width, height)
    elif name == "tiff":
        content = save(RGB, name)
        for tag, old, new in ((256, 128, width), (257, 96, height), (278, 96, height)):
            entry = struct.pack("<HHII", tag, 4, 1, old)
            assert entry in content
            content = content.replace(entry, struct.pack("<HHII", tag, 4, 1, new))
        return content
    elif name == "jpeg":
        content = save(RGB, name)
        size, promised = struct.pack(">HH", 96, 128), struct.pack(">HH", height, width)
    elif name == "webp":
        content = save(RGB, name, save_all=True, append_images=[Image.fromarray(255 - RGB)])
        size = (127).to_bytes(3, "little") + (95).to_bytes(3, "little")
        promised = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        content = save(RGB, name)
        size, promised = struct.pack(">II", 128, 96), struct.pack(">II", width, height)
    assert size in content
    return content.replace(size, promised)


BOMBS = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "avif")


@pytest.fixture
def no_decoding(monkeypatch):
    def load(_image):
        pytest.fail("a pixel was decoded")

    for plugin in _PLUGINS.values():
        monkeypatch.setattr(plugin, "load", load)
    # By the module's name: in the package, `decode` is the function.
    monkeypatch.setattr(sys.modules[decode.__module__], "decode_jpeg", load)


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_before_decoding(name, no_decoding):
    content = resized_header(name, 13_000, 13_000)
    assert len(content) < 60_000
    error = error_of(content)
    assert error.code is ErrorCode.TOO_MANY_PIXELS
    assert "13000 x 13000 px: at most 80,000,000" in error.message


@pytest.mark.parametrize("name", BOMBS)
def test_limits_count_to_the_pixel(name, no_decoding):
    content = resized_header(name, 200, 150)
    assert error_of(content, Limits(max_pixels=200 * 150 - 1)).code is ErrorCode.TOO_MANY_PIXELS
    assert error_of(content, Limits(max_side_px=199)).code is ErrorCode.SIDE_TOO_LONG
    assert error_of(content, Limits(min_side_px=151)).code is ErrorCode.TOO_SMALL
    assert error_of(content, Limits(max_bytes=len(content) - 1)).code is ErrorCode.TOO_MANY_BYTES
    with pytest.raises(pytest.fail.Exception, match="a pixel was decoded"):
        decode(content, Limits(len(content), 200 * 150, 200, 150))


@pytest.mark.parametrize("side_px", [63, 0, -1])
def test_a_least_side_of_too_few_patches_is_no_limit(side_px):
    with pytest.raises(ValueError, match=f"min_side_px is {side_px}"):
        Limits(min_side_px=side_px)


def test_an_image_at_the_default_limits_is_decoded():
    assert decode(encode(photo(1, 64, 64), "PNG")).image.size == (64, 64)
    assert error_of(encode(photo(1, 63, 640), "PNG")).code is ErrorCode.TOO_SMALL
    thin = png(30_000, 64, 1, 0, [bytes(3750)] * 64)
    assert decode(thin).image.size == (30_000, 64)
    assert error_of(png(30_001, 64, 1, 0, [bytes(3751)] * 64)).code is ErrorCode.SIDE_TOO_LONG


PROBE = """
import resource, sys
from pathlib import Path
from mdmf_ops.detector import ImageError, decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        decode(Path(name).read_bytes())
        print(name, "decoded")
    except ImageError as error:
        print(name, error.code.value)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def probe(folder, contents):
    """Decodes files in a process of its own: the outcome of each, growth of peak memory, and its error output."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-W", "default", "-c", PROBE, *contents]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, grown = done.stdout.splitlines()
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return dict(line.split() for line in lines), int(grown) * unit_bytes, done.stderr


def test_bombs_take_no_memory(tmp_path):
    outcomes, grown_bytes, _ = probe(tmp_path, {name: resized_header(name, 13_000, 13_000) for name in BOMBS})
    assert outcomes == dict.fromkeys(BOMBS, "too_many_pixels")
    assert grown_bytes < 30_000_000, "one decoded bomb takes 169 MB and more"


# What decoding leaves behind: nothing.


def malformed_mpo():
    """A JPEG whose table of more pictures is none."""
    content = save(RGB, "jpeg")
    table = b"MPF\0II*\0\x08\0\0\0\x01\0junk"
    return content[:2] + b"\xff\xe2" + struct.pack(">H", 2 + len(table)) + table + content[2:]


def odd_apng():
    content = save(RGB, "png")
    return content[:33] + chunk(b"acTL", bytes(8)) + content[33:]


def test_no_warning_of_pillow_gets_out(tmp_path):
    contents = {f"exif{i}": save(RGB, "jpeg", exif=exif) for i, exif in enumerate(BROKEN_EXIF)}
    contents |= {"mpo": malformed_mpo(), "apng": odd_apng(), "cut.tiff": save(RGB, "tiff lzw")[:-3]}
    contents["large"] = png(10_000, 9_000, 1, 0, [bytes(1250)] * 9_000)
    outcomes, _, stderr = probe(tmp_path, contents)
    assert stderr == ""
    assert (outcomes.pop("large"), outcomes.pop("cut.tiff")) == ("too_many_pixels", "truncated")
    assert set(outcomes.values()) == {"decoded"}


def test_threads_decode_alike_and_nothing_global_is_changed():
    contents = [save(RGB, name) for name in FORMATS] + list(BROKEN.values()) + [malformed_mpo(), odd_apng()]
    contents *= 5

    def outcome(content):
        try:
            return decode(content).pixels.tobytes()
        except ImageError as error:
            return error.code, error.message

    settings = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    assert settings[:2] == (False, (1 << 30) // 4 // 3)
    alone = [outcome(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, contents)) == alone
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == settings


def test_a_process_that_loads_truncated_images_is_stopped(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES is on"):
        decode(save(RGB, "jpeg"))


def test_too_little_memory_is_this_images_error(monkeypatch):
    def load(_image):
        raise MemoryError

    monkeypatch.setattr(PlainWebp, "load", load)
    assert error_of(save(RGB, "webp")).code is ErrorCode.OUT_OF_MEMORY


@pytest.mark.parametrize("options", [{"quality": 50}, {"lossless": True}, {"quality": 50, "exif": b"Exif\0\0MM"}])
def test_a_webp_too_large_is_known_by_its_head_before_a_decoder_is_made(options, monkeypatch):
    content = encode(photo(1, 65, 300), "WEBP", **options)
    assert webp_size(content) == decode(content).size == (300, 65)
    assert all(len(webp_size(content[:end])) == 2 for end in range(40))  # wherever it is cut
    monkeypatch.setattr(PlainWebp, "_open", None)
    assert error_of(content, Limits(max_side_px=299)).code is ErrorCode.SIDE_TOO_LONG
    assert error_of(content, Limits(max_pixels=65 * 300 - 1)).code is ErrorCode.TOO_MANY_PIXELS
