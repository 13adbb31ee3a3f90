"""The random chain that every training and evaluation image goes through, real and generated alike.

Format, quality, size and resampling must not tell the class: real collections differ from generated ones in all
of them, and a detector that learns the difference learns nothing else.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Chain = Callable[[Image.Image, np.random.Generator], Image.Image]

_TRAINING_PX = (160, 512)
EVALUATION_PX = 512

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.HAMMING,
    Image.Resampling.BOX,
)


def training_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One of three chains, each as likely: that of the measurements, a wide one, and one that softens.

    Args:
        image: RGB.
        rng: all randomness comes from here.

    Returns:
        RGB, square, up to 512 px a side; from 96, but for a smaller image that is left nearly as it was.
    """
    chain = (evaluation_chain, _wide_chain, _softening_chain)[rng.integers(3)]
    return chain(image, rng)


def _wide_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop, encode, resize, blur, noise, encode, mirror.

    The scale does not depend on the image's size: collections differ in size, and a scale that followed it would tell
    the class by its traces of resampling.
    """
    mild = rng.random() < 0.25  # an original, nearly: its traces are the clearest
    scale = 1.0 if mild else _log_uniform(0.5, 1.4, rng)
    image = random_crop(image, round(_log_uniform(*_TRAINING_PX, rng) / scale), rng)
    if not mild:
        if rng.random() < 0.5:
            image = recode(image, "JPEG", int(rng.integers(65, 96)))
        image = resize(image, scale, rng)
        if rng.random() < 0.15:
            image = image.filter(ImageFilter.GaussianBlur(_log_uniform(0.3, 2.0, rng)))
        if rng.random() < 0.15:
            image = add_noise(image, _log_uniform(1, 15, rng), rng)
    image = _recode_at_random(image, rng, lowest_quality=85 if mild else 40)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _softening_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blurs or enlarges: a photograph that lacks its finest detail is no less real, nor is a generated one more so."""
    image = random_crop(shrink(image), EVALUATION_PX, rng)
    if rng.random() < 0.5:
        image = recode(image, "JPEG", 75)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(_log_uniform(0.5, 4.0, rng)))
        if rng.random() < 0.5:
            image = resize(image, rng.uniform(0.55, 1.0), rng)
    else:
        scale = rng.uniform(1.2, 2.5)
        image = resize(random_crop(image, int(EVALUATION_PX / scale), rng), scale, rng)
    return _recode_at_random(image, rng, lowest_quality=60)


def evaluation_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The chain of the measurements: short side at most 512 px, crop, JPEG q75, resize by .55 to 1, encode again.

    Nothing is enlarged that has 96 px a side. Args and returns as `training_chain`.
    """
    image = random_crop(shrink(image), EVALUATION_PX, rng)
    image = recode(image, "JPEG", 75)
    image = resize(image, rng.uniform(0.55, 1.0), rng)
    return _recode_at_random(image, rng, lowest_quality=60)


def shrink(image: Image.Image) -> Image.Image:
    """An image whose short side is at most `EVALUATION_PX`; a smaller one stays as it is."""
    short_px = min(image.size)
    if short_px <= EVALUATION_PX:
        return image
    size = tuple(round(side * EVALUATION_PX / short_px) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_crop(image: Image.Image, side_px: int, rng: np.random.Generator) -> Image.Image:
    """Crops a square of `side_px`, or of the shorter side where that is less."""
    side_px = min(side_px, *image.size)
    left = int(rng.integers(image.width - side_px + 1))
    top = int(rng.integers(image.height - side_px + 1))
    return image.crop((left, top, left + side_px, top + side_px))


def resize(image: Image.Image, scale: float, rng: np.random.Generator) -> Image.Image:
    """Resizes by `scale` with a random filter, short side at least 96 px."""
    scale = max(scale, 96 / min(image.size))
    size = tuple(max(round(side * scale), 96) for side in image.size)
    return image.resize(size, _FILTERS[rng.integers(len(_FILTERS))])


def add_noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """Adds normal noise, `sigma` on the scale of 0-255, to every channel of every pixel."""
    noise = rng.normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


def recode(image: Image.Image, image_format: str, quality: int) -> Image.Image:
    """Encodes and decodes again."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=quality)
    return Image.open(buffer).convert("RGB")


def _recode_at_random(image: Image.Image, rng: np.random.Generator, lowest_quality: int) -> Image.Image:
    """JPEG (70 %), WebP (15 %) or as it is (15 %)."""
    draw, quality = rng.random(), int(rng.integers(lowest_quality, 101))
    if draw < 0.7:
        return recode(image, "JPEG", quality)
    return recode(image, "WEBP", quality) if draw < 0.85 else image
