"""Two thousand images, twenty of them broken, each in another way, through `mdmf scan` on two workers."""

import json
import struct
import subprocess
import sys

import duckdb
import numpy as np
import pytest
from conftest import BROKEN, encode, photo
from formats import FORMATS, chunk, encode_gif, png, save
from PIL import Image

IMAGES = 2_000


def damaged_png():
    """Whole, but its pixels do not match their checksum."""
    content = bytearray(encode(photo(1, 64, 64), "PNG"))
    content[len(content) // 2] ^= 1
    return bytes(content)


def broken_files():
    """Content and expected code of twenty files that no score comes out of, by name."""
    codes = ["empty", "unsupported_format", "unsupported_format", "truncated", "truncated", "truncated"]
    codes += ["unsupported_format", "too_small", "truncated", "unsupported_format"]
    files = {name: (content, code) for (name, content), code in zip(BROKEN.items(), codes, strict=True)}
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return files | {
        "damaged.png": (damaged_png(), "corrupt"),
        "bomb.png": (png(13_000, 13_000, 1, 0, [bytes(1625)] * 13_000), "too_many_pixels"),
        "header-only.png": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header), "truncated"),
        "ribbon.png": (png(30_001, 64, 1, 0, [bytes(3751)] * 64), "side_too_long"),
        "depth.tiff": (save(photo(1)[:, :, 0].astype(np.float32), "tiff"), "unsupported_pixels"),
        "half.avif": (save(photo(2, 64, 64), "avif")[:-200], "truncated"),
        "half.gif": (encode_gif(Image.fromarray(photo(3, 64, 64)).quantize(64))[:-500], "truncated"),
        "half.tiff": (save(photo(4, 64, 64), "tiff lzw")[:-3000], "truncated"),
        "zeros.jpg": (encode(photo(5))[:1000] + bytes(2000), "truncated"),
        "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), "unsupported_format"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images, in three folders; returns their root and the expected code of each broken one."""
    root = tmp_path_factory.mktemp("many")
    broken = broken_files()
    assert len(broken) == 20
    pictures = [photo(i, 64, 64 + 32 * (i % 3 == 0)) for i in range(7)]
    contents = [(name, save(pixels, name)) for name in FORMATS for pixels in pictures]
    contents += [("gif", encode_gif(Image.fromarray(pixels).quantize(64))) for pixels in pictures]
    for i in range(IMAGES - len(broken)):
        name, content = contents[i % len(contents)]
        path = root / f"day{i % 3}" / f"{i:05d} {name}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    # Among the good ones, where a batch holds both.
    for i, (name, (content, _)) in enumerate(broken.items()):
        (root / f"day{i % 3}" / name).write_bytes(content)
    return root, {str(root / f"day{i % 3}" / name): code for i, (name, (_, code)) in enumerate(broken.items())}


def test_every_image_is_one_row_scored_or_failed(folder, tmp_path):
    root, expected = folder
    command = [sys.executable, "-m", "mdmf_ops", "scan", root, "--output", tmp_path, "--workers", "2", "--json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["inputs"] == IMAGES
    assert manifest["counts"]["status"] == {"failed": 20, "scored": IMAGES - 20}

    rows = duckdb.sql(
        f"select image_uri, status, error_code, error_message, mmd2, image_sha256 from '{tmp_path}/**/*.parquet'"
    ).fetchall()
    assert sorted(uri for uri, *_ in rows) == sorted(str(p) for p in root.rglob("*") if p.is_file())
    assert len(rows) == IMAGES
    failed = {uri: code for uri, status, code, *_ in rows if status == "failed"}
    assert failed == expected
    for uri, status, code, message, mmd2, sha256 in rows:
        assert sha256 or code == "empty", uri
        if status == "failed":
            assert message and len(message.splitlines()) == 1 and len(message) <= 300
            assert mmd2 is None
        else:
            assert (status, code, message) == ("scored", None, None)
            assert np.isfinite(mmd2)
