"""Features are computed once, and anew when anything that makes them changes."""

import inspect
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, encode, photo, tiny
from PIL import Image

from mdmf_ops.detector import Detector, backbone, decode, frequencies, micro
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.images import jpeg_pixels, png
from mdmf_ops.images.tiles import TileGeometry, cut_tiles, plan_tiles
from mdmf_ops.training import augment, features
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import extract


@pytest.fixture
def made(tmp_path):
    """Returns a function that extracts two copies' features of three images, and how often it showed progress."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(photo(i, 160, 200), "PNG"))
    extractor = Detector.load(device="cpu").backbone

    def extracted():
        steps = []
        images = [LabelledImage(path, False, "source") for path in sorted(tmp_path.glob("*.png"))]
        features = extract(
            images, extractor, "evaluation_chain", 2, 7, tmp_path / "work", lambda *step: steps.append(step)
        )
        return features, steps

    return extracted


def test_a_copy_is_that_of_its_chain_whatever_the_processes(made):
    features, _ = made()
    pixels = augment.evaluation_chain(Image.fromarray(photo(2, 160, 200)), np.random.default_rng([7, 1, 2]))
    extractor = Detector.load(device="cpu").backbone
    seen = extractor.seen(cut_tiles(pixels, plan_tiles(pixels.height, pixels.width, extractor.geometry)))
    np.testing.assert_array_equal(features.seen[features.starts[1, 2] : features.starts[1, 3]], seen.half().numpy())


def test_what_is_there_is_not_computed_again(made, tmp_path):
    first, steps = made()
    assert steps == [(i + 1, 6) for i in range(6)]
    sorted((tmp_path / "work").iterdir())[1].unlink()  # as if interrupted after the first copy
    again, steps = made()
    assert steps == [(4, 6), (5, 6), (6, 6)]
    assert made()[1] == []
    np.testing.assert_array_equal(first.seen, again.seen)


MAKERS = (augment, backbone, micro, frequencies, inspect.getmodule(decode), jpeg_pixels, png)


@pytest.mark.parametrize("module", [*MAKERS, features, None])
def test_another_text_of_what_makes_them_is_another_set(made, tmp_path, monkeypatch, module):
    made()
    read_bytes, changed = Path.read_bytes, module and Path(module.__file__)
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path == changed))
    _, steps = made()
    assert (len(steps), len(list((tmp_path / "work").iterdir()))) == ((6, 4) if module in MAKERS else (0, 2))


def test_another_graph_is_another_set(made, monkeypatch):
    first, _ = made()
    read_bytes = Path.read_bytes
    documented = b"\x32\x01#"  # doc_string of an ONNX model: another graph, that computes the same
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + documented * (path.name == "micro.onnx"))
    again, steps = made()
    assert len(steps) == 6
    assert again.digest != first.digest
    np.testing.assert_array_equal(first.seen, again.seen)


def test_a_picture_that_was_replaced_is_embedded_anew_even_if_it_is_as_large(made, tmp_path):
    first, _ = made()
    path, other = tmp_path / "1.png", encode(photo(8, 160, 200), "PNG")
    size_bytes = max(len(other), path.stat().st_size)
    path.write_bytes(path.read_bytes().ljust(size_bytes, b"\0"))  # what follows a PNG's end is no part of its picture
    padded, _ = made()
    before = path.stat()
    path.write_bytes(other.ljust(size_bytes, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again, steps = made()
    np.testing.assert_array_equal(padded.seen, first.seen)
    assert len(steps) == 6
    assert again.digest != padded.digest
    np.testing.assert_array_equal(again.patches(0), first.patches(0))
    assert not np.array_equal(again.patches(1), first.patches(1))


def test_pictures_that_were_moved_are_not_embedded_again(made, tmp_path):
    first, _ = made()
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    again, steps = made()
    assert steps == []
    assert again.digest == first.digest


def test_a_copy_that_was_damaged_is_made_anew(made, tmp_path):
    first, _ = made()
    path = sorted((tmp_path / "work").iterdir())[0]
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (b"", b"none", content[: len(content) // 2], content[:-1], bytes(flipped)):
        path.write_bytes(damaged)
        again, steps = made()
        assert steps == [(1, 6), (2, 6), (3, 6)]
        np.testing.assert_array_equal(first.seen, again.seen)


def test_all_that_cannot_be_decoded_is_named_at_once(made, tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"2 of 3: .*/0\.png: .*; .*/2\.png: .*") as error:
        made()
    assert "1.png" not in str(error.value)
    assert not list((tmp_path / "work").iterdir())
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"20 of 20: .*; \.\.\.$") as error:
        made()
    assert str(error.value).count(".png") == 10


EXTRACT = """
import sys
from pathlib import Path
from mdmf_ops.detector import Detector
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import extract
folder = Path(sys.argv[1])
images = [LabelledImage(path, False, "source") for path in sorted(folder.glob("*.png"))]
extract(images, Detector.load(device="cpu").backbone, "evaluation_chain", 2, 7, folder / "work")
"""


def test_two_that_make_one_copy_at_once_do_not_take_each_others_file(made, tmp_path, monkeypatch):
    replace, others = Path.replace, []

    def replace_after_the_other(path, target):
        if not others:
            # It makes both copies from the first to the last while this one is about to name its own.
            others.append(subprocess.run([sys.executable, "-c", EXTRACT, str(tmp_path)], cwd=ROOT, timeout=120))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_after_the_other)
    features, _ = made()
    assert [other.returncode for other in others] == [0]
    monkeypatch.undo()
    again, steps = made()
    assert steps == []
    np.testing.assert_array_equal(features.seen, again.seen)


class Wide(Backbone):
    """Gives so many numbers a patch that nothing else counts."""

    embedding_dim = 20_000
    geometry = TileGeometry(32, 512)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tiles):
        count, _, height_px, width_px = tiles.shape
        return torch.ones(count, height_px // 32, width_px // 32, self.embedding_dim)


@pytest.mark.parametrize(("copies", "most"), [(1, 1.5), (3, 1.9)])
def test_features_take_little_more_memory_than_they_have_numbers(tmp_path, copies, most):
    images = []
    for i in range(120):
        (tmp_path / f"{i}.png").write_bytes(tiny(i))
        images.append(LabelledImage(tmp_path / f"{i}.png", False, "source"))
    for _made_or_kept in range(2):
        tracemalloc.start()
        features = extract(images, Wide(), "none", copies, 0, tmp_path / "work")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert features.seen.nbytes == copies * 120 * 4 * 20_000 * 2
        assert peak_bytes < most * features.seen.nbytes
