"""BMPs as browsers show them, where Pillow refuses them or makes other pixels of them: bits that are divided into
colours in another way (four or ten each, blue and red exchanged), palettes of greys. Run lengths are not read.
"""

import struct

import numpy as np
from PIL import Image, ImagePalette
from PIL.BmpImagePlugin import BmpImageFile

from mdmf_ops.errors import ErrorCode, ImageError

_HEAD_BYTES, _ALPHA_HEAD_BYTES = 54, 56
"""Masks of three colours lie behind so much of a file, and alpha's where the header says that it has so many bytes."""

_OLD_HEAD = struct.pack("<I", 12)
"""The size of OS/2's, in which numbers lie elsewhere."""

_GREYS = {"1": (1, b"\0\0\0\xff\xff\xff"), "L": (8, bytes(np.arange(256, dtype=np.uint8).repeat(3)))}
"""By Pillow's mode of a BMP whose palette is these greys alone: how many bits Pillow then takes for a pixel."""

_INDICES = {1: "P;1", 4: "P;4", 8: "P"}

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
        content, packing = self.fp.getvalue(), self.info.get("compression")
        if packing in (self.COMPRESSIONS["RLE8"], self.COMPRESSIONS["RLE4"]):  # Pillow makes other pixels of some
            raise ImageError(ErrorCode.UNSUPPORTED_PIXELS, "the pixels of a run-length coded BMP are not read")
        bits = content[24 if content[14:18] == _OLD_HEAD else 28]
        if bits == 16 and packing == self.COMPRESSIONS["BITFIELDS"] and self._has_fields():
            self.tile = []  # of Pillow's, which takes no note of alpha
        greys_bits, greys = _GREYS.get(self.mode, (bits, b""))
        if bits != greys_bits:
            self._mode, self.palette = "P", ImagePalette.raw("RGB", greys)
            self.tile = [tile._replace(args=(_INDICES[bits], *tile.args[1:])) for tile in self.tile]

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
        """As Pillow's. Raises ImageError where data of pixels lack."""
        if self._masks and self._im is None:
            self.im = Image.fromarray(self._decode(self.fp.getvalue()), self.mode).im
        return super().load()

    def _decode(self, content: bytes) -> np.ndarray:
        """(H, W, 3 or 4) uint8."""
        row_bytes = (self.width * self._bits + 31) // 32 * 4
        end = self._start + self.height * row_bytes
        if end - row_bytes + self.width * self._bits // 8 > len(content):  # but what the last row is filled up with
            raise ImageError(ErrorCode.TRUNCATED, "the BMP ends before its image does")
        content = content.ljust(end, b"\0")
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
