"""What a training sees: nothing held out, nothing of what is left out; and that what it leaves can be loaded."""

import pytest
import torch

from mdmf_ops.detector import Detector
from mdmf_ops.detector.bank import Bank
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.train import save_detector, training_images
from model_assets import AssetError


def labelled(folder, name, generated, source, twin_of=None):
    path = folder / name
    path.write_text(name)
    return LabelledImage(path, generated, source, twin_of)


def test_what_shows_an_image_of_a_left_out_source_again_is_left_out_with_it(tmp_path):
    real = [labelled(tmp_path, f"{source}{i}", False, source) for source in ("web", "phone") for i in range(40)]
    twins = [labelled(tmp_path, f"twin{image.path.name}", True, "coder", image.path) for image in real]
    made = [labelled(tmp_path, f"made{i}", True, "painter") for i in range(40)]
    images = [*real, *twins, *made]
    trained = {i for i, image in enumerate(images) if not image.held_out}
    assert set(training_images(images)) == trained
    seen = [images[i] for i in training_images(images, ["web"])]
    assert {image.source for image in seen} == {"phone", "coder", "painter"}
    assert {image.twin_of for image in seen if image.source == "coder"} == {
        image.path for image in real if image.source == "phone" and not image.held_out
    }
    assert {images[i].source for i in training_images(images, ["coder"])} == {"web", "phone", "painter"}


def test_copies_of_an_image_of_a_left_out_source_are_left_out_with_it(tmp_path):
    images = []
    for i in range(40):
        own, copy, twin = labelled(tmp_path, f"web{i}", False, "web"), tmp_path / f"copy{i}", tmp_path / f"twin{i}"
        copy.write_bytes(own.path.read_bytes())
        twin.write_text(f"twin{i}")
        copies = LabelledImage(copy, False, "phone"), LabelledImage(twin, True, "coder", copy)
        images += [own, *copies, labelled(tmp_path, f"phone{i}", False, "phone")]

    def seen(*leave_out):
        return {images[i].path.name.rstrip("0123456789") for i in training_images(images, leave_out)}

    assert seen() == {"web", "copy", "twin", "phone"}
    assert seen("web") == {"phone"}
    assert seen("phone") == set()


@pytest.mark.parametrize("part", ["signature", "bank"])
def test_a_detector_that_cannot_be_loaded_is_told_when_it_is_saved(tmp_path, part):
    detector = Detector.load(device="cpu")
    signature, bank = detector.signature, detector.bank
    if part == "bank":
        bank = Bank(bank.signatures, torch.full_like(bank.term, torch.nan))
    else:
        signature.mean.fill_(torch.nan)
    with pytest.raises(AssetError, match=f"{part}.safetensors: .* expected finite values"):
        save_detector(tmp_path, detector.assets.manifest["backbone"], detector.backbone, signature, bank, {})
