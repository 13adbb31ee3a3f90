"""The picture of a TIFF, where Pillow gives another one, or reads more of the file."""

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from mdmf_ops.errors import ErrorCode, ImageError

_SUBFILE, _OLD_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 254, 255, 258, 259, 262, 277, 284
_REDUCED, _OLD_REDUCED, _NONE, _WHITE_IS_ZERO, _YCBCR, _PLANES = 1, 2, 1, 0, 6, 2

_PADDED = 32_771
"""A compression that is none."""


class PlainTiff(TiffImageFile):
    """A TIFF of which Pillow reads nothing but pixels, as they are stored. Grey of more than 8 bits has `levels`.

    To turn them upright takes a second copy of all, and EXIF's directories may be of any size.
    """

    def _setup(self) -> None:
        kind = self.tag_v2.get(_SUBFILE)
        if (isinstance(kind, int) and kind & _REDUCED) or self.tag_v2.get(_OLD_SUBFILE) == _OLD_REDUCED:
            what = "a TIFF that begins with a smaller copy of its picture, as cameras' raw files do"
            raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, what)
        tags = self.tag_v2
        is_ycbcr = tags.get(_PHOTOMETRIC) == _YCBCR and tags.get(_SAMPLES, 1) > 1
        if tags.get(_COMPRESSION, _NONE) == _NONE and (is_ycbcr or tags.get(_PLANAR) == _PLANES):
            # What is not packed Pillow reads itself, YCbCr as RGB and planes of 16 bits as of 8; all else libtiff does.
            tags[_COMPRESSION] = _PADDED
        super()._setup()

    def load_end(self) -> None:
        """Called by Pillow when pixels are decoded."""
        self._size = self.im.size  # not as they are shown
        if self.mode.startswith("I;16"):
            bits = self.tag_v2[_BITS][0]
            levels = (np.arange(1 << bits) >> (bits - 8)).astype(np.uint8)
            is_negative = self.tag_v2.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO
            self.info["levels"] = 255 - levels if is_negative else levels
