"""What a message of the stream names: pure functions from a `Message` to an `ImageRef`, every byte from a stranger.

Three forms are read:

- a Cloud Storage notification, payload format JSON_API_V1 or NONE: attributes eventType, bucketId, objectId,
  objectGeneration; of the JSON payload also size, checksum, time and the object's own metadata;
- a reference: a JSON object with "uri" and, if wanted, "generation" and "attributes" (text to text);
- the bytes of an image, with attributes of the caller's.

A message in none of them is no exception: it becomes a ref with an error, and so a `failed` row.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdmf_ops.beam.image import IN_MESSAGE, ImageRef, Message, to_ns
from mdmf_ops.beam.shards import refuse_name_of_member
from mdmf_ops.beam.storage import is_file_uri, is_gcs, is_object, local_path, local_uri
from mdmf_ops.errors import ErrorCode, ImageError

MAX_JSON_BYTES = 256 << 10
"""Of a reference or a notification's payload: 100 attributes of the largest size come to about 130 kB."""

_ATTRIBUTE_LIMITS = 100, 256, 1024
"""Pub/Sub's own, kept for attributes that come in JSON: how many, bytes of a key, bytes of a value."""

_METADATA_LIMITS = (8 << 10,) * 3
"""Cloud Storage takes this much of metadata on one object, in keys of any number and size. Whoever uploads may choose
them, and none is to keep an image from being scored."""

_MAX_PATH_BYTES = 4096
_NOTIFICATION = {"eventType", "bucketId", "objectId", "payloadFormat"}
_OF_NOTIFICATIONS = _NOTIFICATION | {
    *("notificationConfig", "eventTime", "objectGeneration", "overwroteGeneration", "overwrittenByGeneration")
}
"""What Cloud Storage says of each; a notification's configuration may add attributes of its own."""
_FINALIZE = "OBJECT_FINALIZE"
_REFERENCE_KEYS = {"uri", "generation", "attributes"}
_OF_ERRORS = {"mdmf_error_code", "mdmf_error_message", "mdmf_row_id", "mdmf_message_id", "mdmf_cut"}
"""What `Errors` adds: a message that is published again from the error topic names what it named."""


def parse_message(message: Message, local_root: str | None = None) -> ImageRef | None:
    """What a message names; None where it names no new image: an object was deleted, a folder was made.

    Args:
        local_root: folder under which a message may name local files; None refuses all of them.

    Returns:
        A ref whose `message` is set. What is wrong with a message is the ref's `error`, and its URI is then that of
        the message.
    """
    try:
        if message.attributes.keys() >= _NOTIFICATION:
            ref = _notification(message)
        elif message.data.lstrip()[:1] == b"{":
            ref = _reference(message, local_root)
        else:
            ref = ImageRef(message_uri(message), attributes=_callers(message), inline=True)
    except ImageError as error:
        ref = ImageRef(message_uri(message), attributes=_callers(message), error=error)
    return ref and ref._replace(message=message)


def message_uri(message: Message) -> str:
    """Name of a message that is itself the image: the same bytes with the same attributes have the same name.

    The caller's attributes belong to it: two items with one picture are two items.
    """
    digest = hashlib.sha256(message.data)
    digest.update(json.dumps(sorted(_callers(message).items())).encode())
    return f"{IN_MESSAGE}{digest.hexdigest()}"


def _callers(message: Message) -> dict[str, str]:
    """The caller's attributes. Why an image failed is nothing to say of one that was published again, and scored."""
    return {key: value for key, value in message.attributes.items() if key not in _OF_ERRORS}


def _notification(message: Message) -> ImageRef | None:
    attributes = message.attributes
    if attributes["eventType"] != _FINALIZE:
        return None
    uri = _object_uri(f"gs://{attributes['bucketId']}/{attributes['objectId']}")
    added = {key: value for key, value in _callers(message).items() if key not in _OF_NOTIFICATIONS}
    ref = ImageRef(uri, _integer("objectGeneration", attributes.get("objectGeneration")), attributes=added)
    if attributes["payloadFormat"] == "NONE":
        return ref
    payload = _json(message.data)
    listed = (payload.get("bucket"), payload.get("name"), _integer("generation", payload.get("generation")))
    if listed != (attributes["bucketId"], attributes["objectId"], ref.generation):
        raise _bad("the notification's payload and its attributes name different objects")
    size_bytes = _integer("size", payload.get("size"))
    if not size_bytes and uri.endswith("/"):  # the folder that a console draws; one with content is an upload
        return None
    return ref._replace(
        size_bytes=size_bytes,
        modified_ns=_time_ns(payload.get("timeCreated")),
        crc32c=_text("crc32c", payload["crc32c"]) if payload.get("crc32c") else None,
        attributes=_attributes(payload.get("metadata"), _METADATA_LIMITS) | added,  # whoever uploads chose the metadata
    )


def _reference(message: Message, local_root: str | None) -> ImageRef:
    payload = _json(message.data)
    if unknown := payload.keys() - _REFERENCE_KEYS:
        raise _bad(f"unknown keys {sorted(unknown)}: a reference has uri, generation and attributes")
    uri = _text("uri", payload.get("uri"))
    uri = _object_uri(uri) if is_gcs(uri) else _local_uri(uri, local_root)
    generation = payload.get("generation")
    if generation is not None:
        if not is_gcs(uri):
            raise _bad("a local file has no generation")
        generation = _integer("generation", generation)
    own = _attributes(payload.get("attributes"), _ATTRIBUTE_LIMITS)
    return ImageRef(uri, generation, attributes=_callers(message) | own)


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_JSON_BYTES:
        raise ImageError(ErrorCode.TOO_MANY_BYTES, f"JSON of {len(data):,} bytes, at most {MAX_JSON_BYTES:,} are read")
    try:
        payload = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON: {type(error).__name__}: {error}") from error
    if not isinstance(payload, dict):
        raise _bad(f"expected a JSON object, found {type(payload).__name__}")
    return payload


def _object_uri(uri: str) -> str:
    _encodable(uri)
    if not is_object(uri):
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: not an object's gs://BUCKET/NAME")
    if error := refuse_name_of_member(ImageRef(uri)).error:
        raise ImageError(error.code, f"{uri}: {error.message}")
    return uri


def _local_uri(uri: str, local_root: str | None) -> str:
    """The real path of a local file under the root, links followed: nothing leads out of it."""
    if "://" in uri and not uri.startswith("file://"):
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: gs:// objects are read, and local files under --local_root")
    if local_root is None:
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: a local file, and no --local_root was given")
    if uri.startswith("file://") and ("#" in uri or not is_file_uri(uri)):
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: file:///PATH, percent-encoded, is expected")
    try:
        root = Path(local_root).resolve()
        path = (root / local_path(uri)).resolve()
        # What comes after links in a circle is not resolved the first time.
        inside = path.is_relative_to(root) and path.resolve() == path
        inside = inside and len(_encodable(str(path))) <= _MAX_PATH_BYTES
    except (ValueError, OSError, RuntimeError) as error:  # a NUL, a name too long, links in a circle
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: not a path: {error}") from error
    if not inside:
        raise ImageError(ErrorCode.BAD_URI, f"{uri}: not under --local_root")
    return local_uri(str(path))


def _attributes(found: Any, limits: tuple[int, int, int]) -> dict[str, str]:
    if found is None:
        return {}
    most, max_key_bytes, max_value_bytes = limits
    if not isinstance(found, Mapping) or len(found) > most:
        raise _bad(f"attributes: expected an object of at most {most} texts")
    for key, value in found.items():
        if len(_encodable(key)) > max_key_bytes or len(_encodable(_text("an attribute", value))) > max_value_bytes:
            raise _bad(f"attributes: keys to {max_key_bytes} bytes, values to {max_value_bytes} bytes are read")
    return dict(found)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or (name == "uri" and not value):
        raise _bad(f"{name}: expected text, found {type(value).__name__}")
    _encodable(value)
    return value


def _encodable(text: str) -> bytes:
    """Text as UTF-8. JSON may hold half a surrogate pair, which no Parquet file can."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _bad("text that is no Unicode: half a surrogate pair") from error


def _integer(name: str, value: Any) -> int:
    """A number as JSON or as Cloud Storage writes it, in digits; 0 to 2^63 - 1."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise _bad(f"{name}: expected a number of up to 63 bits, found {str(value)[:40]!r}")
    return value


def _time_ns(value: Any) -> int | None:
    """When a generation was written; None where that cannot be read: it is for people, nothing hangs on it."""
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", str(value)).replace("Z", "+00:00"))
    except ValueError:
        return None
    return to_ns(moment) if moment.tzinfo else None


def _bad(message: str) -> ImageError:
    return ImageError(ErrorCode.BAD_MESSAGE, message)
