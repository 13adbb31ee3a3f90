"""GIFs and WebPs as browsers show them: a part of the canvas that the first picture leaves open is transparent."""

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.WebPImagePlugin import WebPImageFile

_ANIMATED = 2


class PlainGif(GifImageFile):
    """A GIF, of which Pillow gives open canvas the first colour there is."""

    def load(self) -> object:
        """As Pillow's."""
        is_new = bool(self.tile)
        pixels = super().load()
        if is_new and "transparency" not in self.info and self.dispose_extent != (0, 0, *self.size):
            shown = Image.new("L", self.size)
            shown.paste(255, self.dispose_extent)
            self.putalpha(shown)
        return pixels


class PlainWebp(WebPImageFile):
    """A WebP, of which Pillow gives open canvas black, unless the file says that there is transparency. Nothing turns
    it: browsers do not ask its EXIF.
    """

    def _open(self) -> None:
        super()._open()
        self.info.pop("exif", None)
        head = self.fp.getvalue()[:21]
        if self.rawmode == "RGBX" and head[12:16] == b"VP8X" and head[20] & _ANIMATED:
            self._mode = self.rawmode = "RGBA"
