"""Features are computed once, and anew when anything that makes them changes."""

import inspect

import numpy as np
import pytest
from conftest import encode, photo
from PIL import Image

from mdmf_ops.detector import Detector, frequencies
from mdmf_ops.detector.tiles import cut_tiles, plan_tiles
from mdmf_ops.training import augment
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import extract


@pytest.fixture
def made(tmp_path):
    """Returns a function that extracts two copies' features of three images, and how often it showed progress."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(photo(i, 160, 200), "PNG"))
    images = [LabelledImage(path, False, "source") for path in paths]
    backbone = Detector.load(device="cpu").backbone

    def extracted():
        steps = []
        features = extract(
            images, backbone, "evaluation_chain", 2, 7, tmp_path / "work", lambda *step: steps.append(step)
        )
        return features, steps

    return extracted


def test_a_copy_is_that_of_its_chain_whatever_the_processes(made):
    features, _ = made()
    pixels = augment.evaluation_chain(Image.fromarray(photo(2, 160, 200)), np.random.default_rng([7, 1, 2]))
    backbone = Detector.load(device="cpu").backbone
    seen = backbone.seen(cut_tiles(pixels, plan_tiles(pixels.height, pixels.width, backbone.geometry)))
    np.testing.assert_array_equal(features.seen[features.starts[1, 2] : features.starts[1, 3]], seen.half().numpy())


def test_what_is_there_is_not_computed_again(made, tmp_path):
    first, steps = made()
    assert steps == [(i + 1, 6) for i in range(6)]
    sorted((tmp_path / "work").iterdir())[1].unlink()  # as if interrupted after the first copy
    again, steps = made()
    assert steps == [(4, 6), (5, 6), (6, 6)]
    assert made()[1] == []
    np.testing.assert_array_equal(first.seen, again.seen)


@pytest.mark.parametrize("module", [augment, frequencies, inspect.getmodule(Detector), None])
def test_another_text_of_what_makes_them_is_another_set(made, tmp_path, monkeypatch, module):
    made()
    text_of = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda of: text_of(of) + ("#" if of is module else ""))
    _, steps = made()
    matters = module in (augment, frequencies)
    assert (len(steps), len(list((tmp_path / "work").iterdir()))) == ((6, 4) if matters else (0, 2))
