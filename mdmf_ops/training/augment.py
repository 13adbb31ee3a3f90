"""The random chain that every training and evaluation image goes through, real and generated alike.

Format, quality, size and resampling must not tell the class: real collections differ from generated ones in all
of them, and a detector that learns the difference learns nothing else.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Chain = Callable[[Image.Image, np.random.Generator], Image.Image]

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.HAMMING,
    Image.Resampling.BOX,
)


def training_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A wide chain: crop, encode, resize, sometimes blur or noise, encode again, mirror.

    Args:
        image: RGB.
        rng: all randomness comes from here.

    Returns:
        RGB; short side from 96 px up.
    """
    image = random_crop(image, rng.uniform(0.6, 1.0), rng)
    if rng.random() < 0.5:
        image = recode(image, "JPEG", int(rng.integers(70, 96)))
    short_px = float(np.exp(rng.uniform(np.log(160), np.log(640))))
    scale = float(np.clip(short_px / min(image.size), 0.4, 1.6))
    image = resize(image, scale, rng)
    if rng.random() < 0.1:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.1:
        noise = rng.normal(0, rng.uniform(1, 6), (image.height, image.width, 3))
        image = Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))
    image = _recode_at_random(image, rng, lowest_quality=50)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def evaluation_chain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The chain of the measurements: short side 512 px, crop, JPEG q75, resize by .55 to 1, encode again.

    Args and returns as `training_chain`.
    """
    image = image.resize(tuple(round(side * 512 / min(image.size)) for side in image.size), Image.Resampling.LANCZOS)
    image = random_crop(image, 512 / max(image.size), rng)
    image = recode(image, "JPEG", 75)
    image = resize(image, rng.uniform(0.55, 1.0), rng)
    return _recode_at_random(image, rng, lowest_quality=60)


def random_crop(image: Image.Image, fraction: float, rng: np.random.Generator) -> Image.Image:
    """Crops to `fraction` of the longer side, and no side below 96 px where the image allows it."""
    side_px = max(round(max(image.size) * fraction), 96)
    width, height = (min(side, side_px) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def resize(image: Image.Image, scale: float, rng: np.random.Generator) -> Image.Image:
    """Resizes by `scale` with a random filter, short side at least 96 px."""
    scale = max(scale, 96 / min(image.size))
    size = tuple(max(round(side * scale), 96) for side in image.size)
    return image.resize(size, _FILTERS[rng.integers(len(_FILTERS))])


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
