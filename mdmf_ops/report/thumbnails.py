"""Small pictures of images, bounded in size, for pages whose makers may copy the images."""

import io

from PIL import Image

from mdmf_ops.report.heatmap import data_uri

SIDE_PX = 420
MAX_BYTES = 32 << 10
_QUALITIES = (75, 60, 45, 30)


def thumbnail(image: Image.Image) -> str:
    """A JPEG of at most `MAX_BYTES` as a data URI, without the original's metadata.

    Args:
        image: RGB, upright, of any size. It is shrunk itself, so that no second one is held.
    """
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    image.info = {}
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= MAX_BYTES:
                return data_uri(buffer.getvalue(), "image/jpeg")
        image = image.resize((max(image.width // 2, 1), max(image.height // 2, 1)), Image.Resampling.LANCZOS)
