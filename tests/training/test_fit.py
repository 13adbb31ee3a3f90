"""Training the signature: what it learns, and that an interrupted training is the same training."""

import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from mdmf_ops.detector.bank import LARGEST_ERROR
from mdmf_ops.training.config import METHODS, TrainingConfig
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Features
from mdmf_ops.training.fit import _save, fit, source_weights
from mdmf_ops.training.score import score_features

CONFIG = TrainingConfig(
    method="mmd",
    copies=1,
    steps=120,
    batch_images=16,
    patches_per_image=8,
    batch_bank_patches=64,
    bank_size=64,
    hidden_dim=16,
)
FISHER = dataclasses.replace(CONFIG, method="fisher")


@pytest.fixture
def images():
    return [LabelledImage(Path(f"{i}.jpg"), i % 2 == 1, f"source{i % 2}") for i in range(60)]


@pytest.fixture
def features():
    """12 patches of 10 numbers an image; of generated ones, one number lies 1.5 higher."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(0, 1, (60, 12, 10))
    embeddings[1::2, :, 3] += 1.5
    starts = np.arange(0, 61 * 12, 12)[None]
    return Features(embeddings.reshape(-1, 10).astype(np.float16), starts)


@pytest.mark.parametrize("config", [CONFIG, FISHER], ids=lambda config: config.method)
def test_generated_images_score_higher_than_real_ones_that_were_not_trained_on(features, images, config):
    signature, bank = fit(features, images, np.arange(40), config)
    scores = score_features(features, range(40, 60), signature, bank)
    assert (scores[1::2][:, None] > scores[::2]).mean() > 0.8


@pytest.mark.parametrize("config", [CONFIG, FISHER], ids=lambda config: config.method)
def test_the_bank_stands_for_as_many_patches_as_were_asked_for(features, images, config):
    _, bank = fit(features, images, np.arange(40), config)
    views, size, dim = bank.signatures.shape
    assert (views, dim) == (1, 1 if config.method == "fisher" else CONFIG.signature_dim)
    assert bank.compressed_from == 64 > size if config.method == "fisher" else size in (64, 32, 16)
    assert bank.error_bound <= LARGEST_ERROR


@pytest.mark.parametrize("size", [2, 63, 100])
def test_a_bank_need_be_no_multiple_of_what_is_drawn_from_an_image(features, images, size):
    config = dataclasses.replace(CONFIG, bank_size=size, steps=11)
    _, bank = fit(features, images, np.arange(40), config)
    assert (bank.compressed_from or bank.signatures.shape[1]) == size


def test_a_training_that_was_interrupted_ends_as_one_that_was_not(features, images, tmp_path):
    whole, whole_bank = fit(features, images, np.arange(40), CONFIG)

    class Killed(Exception):
        pass

    def kill(step, _steps, _loss):
        if step == 110:
            raise Killed

    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Killed):
        fit(features, images, np.arange(40), CONFIG, kill, checkpoint)
    steps = []
    resumed, bank = fit(
        features, images, np.arange(40), CONFIG, lambda step, _steps, _loss: steps.append(step), checkpoint
    )
    assert steps[0] == 101
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert torch.equal(bank.signatures, whole_bank.signatures)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "text"])
def test_a_training_whose_checkpoint_was_damaged_begins_anew(features, images, tmp_path, damage):
    config, checkpoint, steps = dataclasses.replace(CONFIG, steps=101), tmp_path / "fit.pt", []
    fit(features, images, np.arange(40), config, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    damaged = {"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content)), "text": b"step 100\n"}
    checkpoint.write_bytes(damaged[damage])
    fit(features, images, np.arange(40), config, lambda step, _steps, _loss: steps.append(step), checkpoint)
    assert steps == list(range(1, 102))
    assert checkpoint.read_bytes()[:2] == b"PK"  # a whole one again


def test_two_that_run_one_training_do_not_take_each_others_checkpoint(tmp_path, monkeypatch):
    replace, others = Path.replace, []
    parts = {"signature": torch.nn.Linear(1, 1)}

    def replace_after_the_other(path, target):
        if not others:
            save = {"target": _save, "args": (tmp_path / "fit.pt", parts, 200)}
            others.append(multiprocessing.get_context("fork").Process(**save))
            others[0].start()
            others[0].join(120)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_after_the_other)
    _save(tmp_path / "fit.pt", parts, 100)
    assert [other.exitcode for other in others] == [0]
    assert torch.load(tmp_path / "fit.pt", weights_only=True)["step"] == 100


SMALLEST = {
    "copies": 1,
    "bank_size": 2,
    "kernel_width": 1e-9,
    "between_sources": 0,
    "steps": 11,
    "batch_images": 1,
    "patches_per_image": 2,
    "batch_bank_patches": 8,
    "learning_rate": 1e-9,
    "weight_decay": 0,
    "hidden_dim": 0,
    "signature_dim": 1,
    "dropout": 0,
    "seed": 0,
}


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_settings_there_are_make_a_detector_of_finite_numbers(features, images, method):
    config = TrainingConfig.from_dict(SMALLEST | {"method": method})
    signature, bank = fit(features, images, np.arange(40), config)
    assert all(tensor.isfinite().all() for tensor in [*signature.state_dict().values(), *bank.tensors().values()])


def test_the_largest_seed_there_is_trains(features, images):
    config = TrainingConfig.from_dict(SMALLEST | {"method": "mmd", "seed": 2**64 - 1})
    assert fit(features, images, np.arange(40), config)


def test_one_class_alone_is_refused(features, images):
    with pytest.raises(ValueError, match="both real and generated"):
        fit(features, images, np.arange(0, 40, 2), CONFIG)


def test_classes_weigh_alike_and_sources_by_the_root_of_their_size():
    kinds = [(False, "a")] * 16 + [(False, "b")] * 4 + [(True, "c")] * 9
    images = [LabelledImage(Path("x"), generated, source) for generated, source in kinds]
    weights = source_weights(images, range(len(images)))
    assert weights.sum() == pytest.approx(1)
    assert weights[20:].sum() == pytest.approx(0.5)
    assert weights[:16].sum() / weights[16:20].sum() == pytest.approx((16 / 4) ** 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, "stepz is no setting"),
        ({"steps": "many"}, "steps must be of type int"),
        ({"in_common": 1.01}, "in_common is from 0 to 1, found 1.01"),
        ({"in_common": -1}, "in_common is from 0 to 1, found -1"),
        ({"in_common": float("nan")}, "in_common is from 0 to 1, found nan"),
        *(({name: 0}, f"{name} must be positive and finite, found 0") for name in ("kernel_width", "learning_rate")),
        ({"kernel_width": -2.0}, "kernel_width must be positive and finite, found -2.0"),
        ({"kernel_width": float("nan")}, "kernel_width must be positive and finite, found nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, found inf"),
        ({"learning_rate": 10**400}, "learning_rate must be positive and finite, found 10"),
        *(
            ({name: least - 1}, f"{name} must be finite and at least {least}, found {least - 1}")
            for name, least in {
                "copies": 1,
                "steps": 11,
                "batch_images": 1,
                "signature_dim": 1,
                "bank_size": 2,
                "patches_per_image": 2,
                "batch_bank_patches": 8,
                "hidden_dim": 0,
                "seed": 0,
                "between_sources": 0,
                "weight_decay": 0,
            }.items()
        ),
        ({"between_sources": float("inf")}, "between_sources must be finite and at least 0, found inf"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite and at least 0, found nan"),
        ({"seed": 2**64}, f"seed must be at most {2**64 - 1}, found {2**64}"),
        *(
            ({name: 10**13}, f"{name} must be at most 1048576, found {10**13}")
            for name in ("bank_size", "copies", "batch_images", "hidden_dim", "signature_dim")
        ),
        ({"dropout": 1.0}, "dropout is from 0 to less than 1, found 1.0"),
        ([1], r"settings are an object of names and values, found \[1\]"),
    ],
)
def test_a_setting_that_is_none_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict(values)
