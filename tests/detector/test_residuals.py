"""Residual statistics against a second implementation in numpy, patch by patch in float64."""

import numpy as np
import pytest
import torch
from conftest import photo
from scipy.fft import dctn

from mdmf_ops.detector.residuals import RESIDUAL_DIM, residual_statistics

P = 32
LUMA_LAGS = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (1, -1), (2, 2), (2, -2)]
CHROMA_LAGS = [(0, 1), (1, 0), (1, 1)]


def high_pass(plane):
    padded = np.pad(plane, 1, mode="reflect")
    height, width = plane.shape
    windows = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return plane - np.mean(windows, axis=0)


def patches(plane):
    height, width = plane.shape
    return plane.reshape(height // P, P, width // P, P).mean(axis=(1, 3))


def expected(image):
    """(D, H/P, W/P) of an (H, W, 3) image."""
    red, green, blue = (image[..., i].astype(float) for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    out = []
    for plane, lags in ((luma, LUMA_LAGS), (blue - luma, CHROMA_LAGS), (red - luma, CHROMA_LAGS)):
        residual = high_pass(plane)
        variance = patches(residual**2) + 0.02
        out.append(np.log(variance))
        padded = np.pad(residual, 4, mode="reflect")
        for dy, dx in lags:
            shifted = padded[4 + dy : 4 + dy + plane.shape[0], 4 + dx : 4 + dx + plane.shape[1]]
            out.append(patches(residual * shifted) / variance)
    r, g, b = (high_pass(plane) for plane in (red, green, blue))
    for first, second in ((r, g), (g, b), (b, r)):
        variances = [patches(plane**2) + 0.02 for plane in (first, second)]
        out.append(patches(first * second) / np.sqrt(variances[0] * variances[1]))
    padded = np.pad(luma, 2)
    rows, cols = image.shape[0] // 4, image.shape[1] // 4
    blocks = np.array([[padded[4 * y : 4 * y + 8, 4 * x : 4 * x + 8] for x in range(cols)] for y in range(rows)])
    energy = dctn(blocks, axes=(2, 3), norm="ortho") ** 2  # (rows, cols, 8, 8)
    energy = energy.reshape(rows // 8, 8, cols // 8, 8, 64).mean(axis=(1, 3))[..., 1:]
    return np.concatenate([np.array(out), np.log(energy + 0.1).transpose(2, 0, 1)])


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_every_statistic_is_the_definition(size):
    image = photo(1, *size)
    ours = residual_statistics(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float(), P)[0]
    assert ours.shape == (RESIDUAL_DIM, size[0] // P, size[1] // P)
    np.testing.assert_allclose(ours.numpy(), expected(image), atol=2e-3)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_flat_tile_is_finite(shade):
    assert residual_statistics(torch.full((1, 3, 64, 64), float(shade)), P).isfinite().all()


def test_up_sampling_shows_in_the_neighbours_correlation():
    image = torch.from_numpy(photo(2, 128, 128).transpose(2, 0, 1)[None].copy()).float()
    small = torch.nn.functional.avg_pool2d(image, 2)
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    neighbour = 1  # the lag (0, 1) of luma
    assert (residual_statistics(enlarged, P)[:, neighbour] > residual_statistics(image, P)[:, neighbour] + 0.1).all()
