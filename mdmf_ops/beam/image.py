"""What walks through the pipeline before a row: where an image lies, and its bytes."""

import datetime
import re
from typing import NamedTuple

from mdmf_ops.errors import ImageError

NAMESPACE = "mdmf"
"""Of every metric of ours."""

IN_MESSAGE = "message:"
"""The URI of an image that was itself a stream's message starts so: nothing has it any more."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MEMBER_MARK = re.compile(r"\.tar#", re.IGNORECASE)


class Message(NamedTuple):
    """A message of a stream, as it was delivered.

    Attributes:
        data: as published.
        attributes: as published.
        message_id: of the service: a redelivery has it again, a second publication has another one.
        published_us: when it was published, microseconds since 1970 UTC.
    """

    data: bytes
    attributes: dict[str, str]
    message_id: str
    published_us: int


class ImageRef(NamedTuple):
    """Where one image lies, as listed.

    Attributes:
        uri: absolute local path, or URI. A local name that is not UTF-8, or holds control characters or `.tar#`, is
            a percent-encoded `file://` URI; an object's name is what the store says. An image in a tar shard is
            `shard.tar#name`, and nothing else is; what is said of generation, time and checksum is the shard's.
        generation: of the object that was listed; None where the store has none.
        size_bytes: of the image, as listed; None where unknown.
        attributes: the caller's own keys.
        modified_ns: when the object's generation or the file was written, ns since 1970 UTC; None where unknown.
        offset_bytes: where the image's bytes start in its tar shard; None for a file or object of its own.
        crc32c: checksum of the object's bytes, as the store lists it (base64); None where it lists none.
        error: why it cannot be read, where listing found out; reading it gives this error.
        message: of a stream, what named the image; None in a scan.
        inline: whether the message's data are the image.
    """

    uri: str
    generation: int | None = None
    size_bytes: int | None = None
    attributes: dict[str, str] = {}  # noqa: RUF012  # never mutated
    modified_ns: int | None = None
    offset_bytes: int | None = None
    crc32c: str | None = None
    error: ImageError | None = None
    message: Message | None = None
    inline: bool = False

    @property
    def container(self) -> str:
        """URI of the file or object that holds the bytes: the shard of an image in one, else the image's own."""
        return self.uri if self.offset_bytes is None else split_member(self.uri)[0]

    @property
    def modified_at(self) -> datetime.datetime | None:
        """`modified_ns` to the microsecond; None where unknown or out of the calendar."""
        if self.modified_ns is None:
            return None
        try:
            return _EPOCH + datetime.timedelta(microseconds=self.modified_ns // 1000)
        except OverflowError:
            return None


class Image(NamedTuple):
    """An image's bytes, or why there are none: exactly one of `content` and `error` is set."""

    ref: ImageRef
    content: bytes | None
    error: ImageError | None = None


def split_member(uri: str) -> tuple[str, str | None]:
    """Shard and member of `shard.tar#name`, the suffix in any case; any other URI as it is, and None."""
    mark = _MEMBER_MARK.search(uri)
    return (uri[: mark.end() - 1], uri[mark.end() :]) if mark else (uri, None)


def to_ns(moment: datetime.datetime) -> int:
    """An aware time as ns since 1970 UTC, exact to the microsecond."""
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
