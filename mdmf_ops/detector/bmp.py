"""BMPs as browsers show them, where Pillow refuses them or makes other pixels of them: bits that are divided into
colours in another way (four or ten each, blue and red exchanged), run lengths, palettes of two greys.
"""

import struct

import numpy as np
from PIL import Image, ImagePalette
from PIL.BmpImagePlugin import BmpImageFile

from mdmf_ops.detector.errors import ErrorCode, ImageError

_HEAD_BYTES, _ALPHA_HEAD_BYTES = 54, 56
"""Behind so much of a file are masks of three colours, and alpha's where the second part of its head is as large."""

_OLD_HEAD = struct.pack("<I", 12)
"""The size of OS/2's, in which numbers lie elsewhere."""

_MAX_RUN_LENGTH_PIXELS = 10_000_000
"""Of a run-length coded BMP, which is decoded in Python, run by run."""

_END_OF_ROW, _END_OF_PICTURE, _SKIP = 0, 1, 2
_HALVES = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))

_GREYS = {"1": (1, b"\0\0\0\xff\xff\xff"), "L": (8, bytes(np.arange(256, dtype=np.uint8).repeat(3)))}
"""By Pillow's mode of a BMP whose palette is these greys alone: how many bits Pillow then takes for a pixel."""

_INDICES = {1: "P;1", 4: "P;4", 8: "P"}

_BAND_PX = 256


class PlainBmp(BmpImageFile):
    """A BMP that Pillow opens, or one of fields of bits, which it refuses but for a few. What run lengths leave out is
    black."""

    _masks: tuple[int, ...] = ()
    _bits = _start = 0
    _is_upright = False

    def _bitmap(self, header: int = 0, offset: int = 0) -> None:
        try:
            super()._bitmap(header, offset)
        except OSError as error:
            if "bitfields layout" not in str(error) or not self._has_fields():
                raise
        content = self.fp.getvalue()
        bits = content[24 if content[14:18] == _OLD_HEAD else 28]
        if bits == 16 and self.info.get("compression") == self.COMPRESSIONS["BITFIELDS"] and self._has_fields():
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
        """As Pillow's. Raises ImageError for run lengths that would be minutes' work, and where data of pixels lack."""
        if self.tile and self.tile[0].codec_name == "bmp_rle":
            indices, drawn = (
                stored[:: self.tile[0].args[-1]] for stored in self._decode_run_lengths(self.fp.getvalue())
            )
            self.tile, self.im = [], Image.frombytes(self.mode, self.size, indices.tobytes()).im
            if not drawn.all():
                black = Image.new("RGB", self.size)
                self.im = Image.composite(self.convert("RGB"), black, Image.fromarray(drawn)).im
                self._mode = "RGB"
        if self._masks and self._im is None:
            self.im = Image.fromarray(self._decode(self.fp.getvalue()), self.mode).im
        return super().load()

    def _decode_run_lengths(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Indices of colours as they are stored, (H, W) uint8, and whether there is one for each pixel."""
        width, pixels = self.width, self.width * self.height
        if pixels > _MAX_RUN_LENGTH_PIXELS:
            raise ImageError(
                ErrorCode.TOO_MANY_PIXELS, f"of a run-length coded BMP at most {_MAX_RUN_LENGTH_PIXELS:,} are decoded"
            )
        _, _, at, (_, is_half, _) = self.tile[0]
        # Two bytes for each pixel, as many for the end of each row, and some to spare.
        most_at = at + 2 * (pixels + self.height) + 4096
        indices, drawn = bytearray(pixels), bytearray(b"\xff") * pixels
        row = x = 0  # row: of its first pixel
        while row + x < pixels:
            if at + 2 > len(content):
                raise ImageError(ErrorCode.TRUNCATED, "the BMP ends before its image does")
            if at > most_at:
                raise ImageError(ErrorCode.CORRUPT, "a BMP of more run lengths than pixels")
            count, value = content[at], content[at + 1]
            at += 2
            if count:
                run = _indices(content[at - 1 : at], is_half) * count
            elif value > _SKIP:
                count, size_bytes = value, (value + 1) // 2 if is_half else value
                run = _indices(content[at : at + size_bytes], is_half)
                at += size_bytes + size_bytes % 2
            elif value == _END_OF_PICTURE:
                break
            else:
                right, up = (-x, 1) if value == _END_OF_ROW else content[at : at + 2].ljust(2, b"\0")
                before, row, x = row + x, row + up * width, x + right
                if x > width or row + x > pixels:
                    raise ImageError(ErrorCode.CORRUPT, "a BMP whose run lengths lead out of it")
                drawn[before : row + x] = bytes(row + x - before)
                at += 2 if value == _SKIP else 0
                continue
            run = run[: min(count, width - x)]
            indices[row + x : row + x + len(run)] = run
            x += len(run)
        if row < pixels - width:
            raise ImageError(ErrorCode.CORRUPT, "a BMP that lacks rows")
        drawn[row + x :] = bytes(pixels - row - x)
        return tuple(np.frombuffer(each, np.uint8).reshape(-1, width) for each in (indices, drawn))

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


def _indices(data: bytes, is_half: bool) -> bytes:
    """One for each byte, or two."""
    return data.hex().encode().translate(_HALVES) if is_half else data
