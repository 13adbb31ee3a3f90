"""Energies of frequencies against a second implementation in scipy, patch by patch in float64."""

import numpy as np
import pytest
import torch
from conftest import photo
from scipy.fft import dctn

from mdmf_ops.detector.frequencies import FREQUENCY_DIM, log_energies

P = 32


def expected(image):
    """(63, H/P, W/P) of an (H, W, 3) image."""
    red, green, blue = (image[..., i].astype(float) for i in range(3))
    padded = np.pad(0.299 * red + 0.587 * green + 0.114 * blue, 2)
    rows, cols = image.shape[0] // 4, image.shape[1] // 4
    blocks = np.array([[padded[4 * y : 4 * y + 8, 4 * x : 4 * x + 8] for x in range(cols)] for y in range(rows)])
    energy = dctn(blocks, axes=(2, 3), norm="ortho") ** 2  # (rows, cols, 8, 8)
    energy = energy.reshape(rows // 8, 8, cols // 8, 8, 64).mean(axis=(1, 3))[..., 1:]
    return np.log(energy + 0.1).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_every_energy_is_the_definition(size):
    image = photo(1, *size)
    ours = log_energies(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float(), P)[0]
    assert ours.shape == (FREQUENCY_DIM, size[0] // P, size[1] // P)
    np.testing.assert_allclose(ours.numpy(), expected(image), atol=2e-3)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_flat_tile_is_finite(shade):
    assert log_energies(torch.full((1, 3, 64, 64), float(shade)), P).isfinite().all()


def test_up_sampling_takes_the_highest_frequencies():
    image = torch.from_numpy(photo(2, 128, 128).transpose(2, 0, 1)[None].copy()).float()
    small = torch.nn.functional.avg_pool2d(image, 2)
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    assert (log_energies(enlarged, P)[:, -1] < log_energies(image, P)[:, -1] - 1).all()
