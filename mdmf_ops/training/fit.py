"""Features to a trained signature and its bank of real patches."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdmf_ops.detector.bank import Bank
from mdmf_ops.detector.signature import Signature
from mdmf_ops.training.config import TrainingConfig
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.features import Features
from mdmf_ops.training.fisher import fisher_signature, least_generated
from mdmf_ops.training.objective import ImageMmdLoss

_PATCHES_PER_BANK_IMAGE = 8
_POOL = 10
"""Real patches that are drawn for each one that goes into the bank of `fisher`."""

_CHECKPOINT_STEPS = 100


def source_weights(images: Sequence[LabelledImage], chosen: Sequence[int]) -> np.ndarray:
    """Probability of drawing each chosen image: classes alike, and within a class its sources.

    A large source must not decide what its class looks like; one of a few images must not be learned by heart, so
    a source weighs as the square root of its size.

    Returns:
        (len(chosen),) float64, sums to 1.
    """
    key = [(images[i].generated, images[i].source) for i in chosen]
    sizes = {k: key.count(k) for k in set(key)}
    weights = np.array([sizes[k] ** -0.5 for k in key])
    generated = np.array([k[0] for k in key])
    for label in (False, True):
        weights[generated == label] /= weights[generated == label].sum()
    return weights / weights.sum()


def fit(
    features: Features,
    images: Sequence[LabelledImage],
    chosen: Sequence[int],
    config: TrainingConfig,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    checkpoint: Path | None = None,
) -> tuple[Signature, Bank]:
    """Finds a signature by the configuration's method, and builds its bank.

    Args:
        features: of `images`.
        chosen: indices of the images to train on, of both classes.
        config: method, sizes and seed.
        progress: of `mmd`, called with the step, the number of steps and the running loss.
        checkpoint: of `mmd`, file to go on from, kept every 100 steps.

    Raises:
        ValueError: a class is missing.
    """
    chosen = np.asarray(chosen)
    real = np.array([i for i in chosen if not images[i].generated], dtype=int)
    if len(real) == 0 or len(real) == len(chosen):
        raise ValueError("training needs both real and generated images")
    pool_size = config.bank_size * (_POOL if config.method == "fisher" else 1)
    bank_images = _rng(config, -2).choice(real, -(-pool_size // _PATCHES_PER_BANK_IMAGE))
    bank_patches = _draw(features, bank_images, _PATCHES_PER_BANK_IMAGE, _rng(config, -2)).flatten(0, 1)[:pool_size]
    if config.method == "fisher":
        signature = fisher_signature(
            features.means(chosen),
            [images[i].source for i in chosen] * features.copies,
            np.array([images[i].generated for i in chosen] * features.copies),
            bank_patches.numpy(),
            features.views,
            config.between_sources,
            config.in_common,
            config.kernel_width,
        )
    else:
        signature = _descend(features, images, chosen, config, progress, checkpoint)
    signature.eval()
    with torch.no_grad():
        signatures = signature(bank_patches)
        if config.method == "fisher":
            signatures = least_generated(signatures, config.bank_size)
        return signature, Bank.build(signatures, signature.width).compressed(signature.width)


def _draw(features: Features, indices: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """(len(indices), count, d) float32: random patches of images."""
    return torch.from_numpy(np.stack([features.sample(i, count, rng) for i in indices])).float()


def _descend(
    features: Features,
    images: Sequence[LabelledImage],
    chosen: np.ndarray,
    config: TrainingConfig,
    progress: Callable[[int, int, float], None],
    checkpoint: Path | None,
) -> Signature:
    """Trains an MLP on the image-level MMD, on batches of the chosen images."""
    torch.manual_seed(config.seed)
    weights = source_weights(images, chosen)
    is_real = np.array([not images[i].generated for i in chosen])
    real, real_weights = chosen[is_real], weights[is_real] / weights[is_real].sum()
    first_images = np.random.default_rng(config.seed).choice(chosen, 400, p=weights)
    signature = _initial_signature(_draw(features, first_images, 16, _rng(config, -1)), config, features.views)
    loss = ImageMmdLoss(len(signature.views))
    optimiser = torch.optim.AdamW(
        [
            {"params": signature.parameters(), "weight_decay": config.weight_decay},
            {"params": loss.parameters(), "weight_decay": 0.0},
        ]
    )
    rates = [config.learning_rate, 0.05]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=config.steps, pct_start=0.1)
    parts = {"signature": signature, "loss": loss, "optimiser": optimiser, "schedule": schedule}
    first = _resume(checkpoint, parts)
    running = None
    for step in range(first, config.steps):
        # A step's draws depend on the step alone: a resumed training is the same one.
        rng = _rng(config, step)
        torch.manual_seed(int(rng.integers(1 << 62)))  # of dropout
        batch = rng.choice(chosen, config.batch_images, p=weights)
        generated = torch.tensor([float(images[i].generated) for i in batch])
        bank_images = rng.choice(real, config.batch_bank_patches // _PATCHES_PER_BANK_IMAGE, p=real_weights)
        value = loss(
            signature,
            _draw(features, batch, config.patches_per_image, rng),
            generated,
            _draw(features, bank_images, _PATCHES_PER_BANK_IMAGE, rng).flatten(0, 1),
        )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        progress(step + 1, config.steps, running)
        if checkpoint and (step + 1) % _CHECKPOINT_STEPS == 0:
            _save(checkpoint, parts, step + 1)
    return signature


def _rng(config: TrainingConfig, step: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, step + 2])


def _initial_signature(patches: Tensor, config: TrainingConfig, views: Sequence[Sequence[int]]) -> Signature:
    """A signature that standardises these embeddings (B, K, d), with the median heuristic's kernel widths."""
    patches = patches.flatten(0, 1)
    signature = Signature(patches.shape[1], config.hidden_dim, config.signature_dim, views, config.dropout)
    signature.mean.copy_(patches.mean(0))
    signature.scale.copy_(patches.std(0) + 1e-4)
    signature.eval()
    with torch.no_grad():
        samples = signature(patches[:: max(len(patches) // 1000, 1)])  # (E, about 1000, m)
        signature.log_width.copy_(torch.stack([torch.cdist(sample, sample).median().log() for sample in samples]))
    return signature.train()


def _save(path: Path, parts: dict, step: int) -> None:
    partial_path = path.with_suffix(f".{os.getpid()}.tmp")  # the same command may be running twice
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, partial_path)
    partial_path.replace(path)


def _resume(path: Path | None, parts: dict) -> int:
    """Loads a checkpoint where there is one that can be read, and returns the step to go on from."""
    if path is None or not path.exists():
        return 0
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, weights_only=True)
    except Exception:  # of every kind: a machine that stopped may have left less than was written
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]
