"""Why an image could not be scored: a closed list of codes, and the error that carries one."""

from enum import Enum

from mdmf_ops.text import told

_MAX_MESSAGE_CHARS = 300


class ErrorCode(str, Enum):
    """Closed list of the causes of a `failed` row."""

    EMPTY = "empty"
    """No bytes."""
    TOO_MANY_BYTES = "too_many_bytes"
    """The file is larger than `Limits.max_bytes`; it was not read."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """The header promises more than `Limits.max_pixels`; it was not decoded."""
    SIDE_TOO_LONG = "side_too_long"
    """The header promises a side over `Limits.max_side_px`; it was not decoded."""
    TOO_MUCH_METADATA = "too_much_metadata"
    """Beside its pixels the file holds more than `Limits.max_metadata_bytes`, or is in too many pieces."""
    TOO_MANY_SCANS = "too_many_scans"
    """A JPEG in more than `Limits.max_scans` scans, each of which goes over all pixels: a bomb."""
    TOO_SMALL = "too_small"
    """A side is under `Limits.min_side_px`: too few patches to compare."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """The content is none of the formats that are read, whatever its name says; or its first picture is only a smaller
    copy of another, or not the one that its animation begins with."""
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    """An image, but of pixels that are not read: floating point, 32-bit, CIE Lab, JPEGs of 12 bits or lossless,
    BMPs in run lengths or of colours in scattered bits."""
    TRUNCATED = "truncated"
    """The file ends before the image does, or holds too few data for its pixels: fetch it again."""
    CORRUPT = "corrupt"
    """The file is damaged."""
    NOT_FOUND = "not_found"
    """Listed or named, but not there when it was read."""
    CHANGED = "changed"
    """Overwritten between listing and reading: the next scan reads what is there now."""
    FORBIDDEN = "forbidden"
    """The reader may not read it: grant access."""
    UNAVAILABLE = "unavailable"
    """The store did not answer, however often it was asked: scan it again."""
    BAD_URI = "bad_uri"
    """What was named is neither a local path nor a gs:// object."""
    BAD_MESSAGE = "bad_message"
    """A message of the stream in none of the documented forms: the sender must mend it."""
    UNREADABLE = "unreadable"
    """Reading failed in another way: see the message."""
    TIMEOUT = "timeout"
    """Decoding took longer than `Limits.max_decode_s` and was stopped: a bomb, or a machine that is overloaded."""
    DECODER_CRASHED = "decoder_crashed"
    """The decoder died, of this image alone: report it with the image, it may be an attack."""
    OUT_OF_MEMORY = "out_of_memory"
    """Decoding needed more than `Limits.max_decode_bytes`, or scoring more than there was."""
    INTERNAL = "internal"
    """The detector gave no finite score: report it with the image."""


class ImageError(Exception):
    """One image cannot be scored; the others of its batch can.

    Attributes:
        code: of the closed list.
        message: for people and logs: one line without control characters and secrets of URLs, cut to 300 characters.
    """

    def __init__(self, code: ErrorCode, message: str):
        message = told(message, _MAX_MESSAGE_CHARS)
        super().__init__(code, message)  # both, so that it can be pickled
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.value}: {self.message}"

    def without_frames(self) -> "ImageError":
        """Itself, holding no frame any more, nor do its causes: a traceback's frames hold the batch, and the error."""
        cause: BaseException | None = self
        while cause is not None:
            cause.__traceback__ = None
            cause = cause.__context__
        return self
