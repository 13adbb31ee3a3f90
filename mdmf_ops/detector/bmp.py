"""BMPs, and those among them whose bits are divided into colours as Pillow does not know it: four or ten each, or blue
and red exchanged.
"""

import struct

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from mdmf_ops.detector.errors import ErrorCode, ImageError

_HEAD_BYTES, _ALPHA_HEAD_BYTES = 54, 56
"""Behind so much of a file are masks of three colours, and alpha's where the second part of its head is as large."""

_MAX_RUN_LENGTH_PIXELS = 10_000_000
"""Of a run-length coded BMP, which Pillow decodes in Python, pixel by pixel."""

_BAND_PX = 256


class PlainBmp(BmpImageFile):
    """A BMP that Pillow opens, or one of fields of bits, which it refuses but for a few."""

    _masks: tuple[int, ...] = ()
    _bits = _start = 0
    _is_upright = False

    def _bitmap(self, header: int = 0, offset: int = 0) -> None:
        try:
            super()._bitmap(header, offset)
        except OSError as error:
            if "bitfields layout" not in str(error) or not self._has_fields():
                raise

    def _has_fields(self) -> bool:
        """Reads how the pixels lie, and whether each mask is one run of bits."""
        head = self.fp.getvalue()[: _HEAD_BYTES + 16].ljust(_HEAD_BYTES + 16, b"\0")
        start, size_bytes, _, height_px, _, self._bits = struct.unpack_from("<IIiiHH", head, 10)
        *masks, alpha = struct.unpack_from("<4I", head, _HEAD_BYTES)
        if alpha and size_bytes >= _ALPHA_HEAD_BYTES:
            masks.append(alpha)
        self._masks, self._is_upright = tuple(masks), height_px < 0
        self._start = max(start, _HEAD_BYTES + 12)
        self._mode = "RGBA" if len(masks) == 4 else "RGB"
        runs = [mask // max(mask & -mask, 1) for mask in masks]
        return self._bits in (16, 32) and max(masks) < 1 << self._bits and not any(run & (run + 1) for run in runs)

    def load(self) -> object:
        """As Pillow's. Raises ImageError for run lengths that would be minutes' work, and where bits of pixels lack."""
        if self.tile and self.tile[0].codec_name == "bmp_rle":
            self._check_run_lengths(len(self.fp.getvalue()))
        if self._masks and self._im is None:
            self.im = Image.fromarray(self._decode(self.fp.getvalue()), self.mode).im
        return super().load()

    def _check_run_lengths(self, size_bytes: int) -> None:
        pixels = self.width * self.height
        if pixels > _MAX_RUN_LENGTH_PIXELS:
            raise ImageError(
                ErrorCode.TOO_MANY_PIXELS, f"of a run-length coded BMP at most {_MAX_RUN_LENGTH_PIXELS:,} are decoded"
            )
        # Two bytes for each pixel, as many for the end of each row, and the head with its colours.
        if size_bytes > 2 * (pixels + self.height) + 4096:
            raise ImageError(ErrorCode.CORRUPT, "a BMP of more run lengths than pixels")

    def _decode(self, content: bytes) -> np.ndarray:
        """(H, W, 3 or 4) uint8."""
        row_bytes = (self.width * self._bits + 31) // 32 * 4
        if self._start + self.height * row_bytes > len(content):
            raise ImageError(ErrorCode.TRUNCATED, "the BMP ends before its image does")
        kind = np.dtype(f"<u{self._bits // 8}")
        stored = np.ndarray((self.height, row_bytes // kind.itemsize), kind, content, self._start)
        stored = stored[:: 1 if self._is_upright else -1, : self.width]
        pixels = np.zeros((self.height, self.width, len(self._masks)), np.uint8)
        for channel, mask in enumerate(self._masks):
            if not mask:
                continue
            lowest = (mask & -mask).bit_length() - 1
            bits = mask.bit_length() - lowest
            # As browsers do it: fewer than eight bits are spread over all shades, of more the lowest do not count.
            lowest, bits = lowest + max(bits - 8, 0), min(bits, 8)
            most = (1 << bits) - 1
            shades = ((np.arange(most + 1) * 255 + most // 2) // most).astype(np.uint8)
            for top in range(0, self.height, _BAND_PX):
                band = stored[top : top + _BAND_PX]
                pixels[top : top + _BAND_PX, :, channel] = shades[(band >> lowest) & most]
        return pixels
