"""Google Cloud Storage: the only module that knows its client. `mdmf_ops.beam.storage` and the listing call it.

Every request is retried with growing pauses where the error is transient, for at most `RETRY_S` seconds.
"""

import base64
import os
import socket
import string
import threading
import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import google_crc32c
from apache_beam.io.gcp.gcsio import create_storage_client
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    RequestRangeNotSatisfiable,
    RetryError,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException, Response
from requests.adapters import HTTPAdapter

from mdmf_ops.beam.image import ImageRef, to_ns
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import Limits

RETRY_S = 120.0
RETRY = DEFAULT_RETRY.with_timeout(RETRY_S)

TIMEOUT_S = (10.0, 20.0)
"""Of reading an image: until there is a connection, and between its bytes. A half-open connection never says more."""

ANSWER_S = RETRY_S
"""Of any answer, from its head to its last byte. One that trickles would go on for days; it is cut, and asked for again
while there is time."""

ERRORS = (GoogleAPICallError, RetryError, GoogleAuthError, DataCorruption, RequestException)
"""What a request may raise once its retries are used up."""

_LISTED = "items(name,generation,size,timeCreated,crc32c),nextPageToken"
"""All that is asked of a listing: a page of 1,000 objects is one request, and none follows for an object."""

_PAGE = 1000
"""Objects in one answer, at most: the store's own limit."""

_CHUNK_BYTES = 8 << 20

_CONNECTIONS = 96
"""That are kept: eight reads at once of each thread, of which a worker of a stream has a dozen."""

_NEXT_CHARACTERS = string.digits + string.ascii_letters
"""What cuts names that lie in too few folders to cut them there."""


@lru_cache(maxsize=1)
def client() -> storage.Client:
    """The client of this process, with Beam's credentials; anonymous against an emulator, which knows none.

    Without the exception Beam would look for credentials for 25 s before it does the same.
    """
    made = create_storage_client(PipelineOptions([]), use_credentials="STORAGE_EMULATOR_HOST" not in os.environ)
    for scheme in ("https://", "http://"):
        if type(made._http.get_adapter(scheme)) is HTTPAdapter:  # not one with certificates of its own
            made._http.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    made._http.hooks["response"].append(_refuse_half_a_head)
    _bound_answers(made)
    return made


def _refuse_half_a_head(response: Response, **_settings) -> None:
    """Raises ConnectionError, which is retried, for an answer that does not say how long it is.

    The connection was cut within its head: what follows, nothing, would be taken for the whole of an image or file.
    """
    length, coding = map(response.headers.get, ("Content-Length", "Transfer-Encoding"))
    if response.request.method == "GET" and response.ok and not (length or "").isdecimal() and coding != "chunked":
        raise ConnectionError(f"{response.url}: the answer is cut off within its head")


def _bound_answers(made: storage.Client) -> None:
    """Has a thread cut the connections of answers that take longer than `ANSWER_S`."""
    answers: deque[tuple[float, weakref.ref]] = deque()  # when they began, oldest first

    def begins(response: Response, **_settings) -> None:
        answers.append((time.monotonic(), weakref.ref(response.raw)))

    def cut() -> None:
        while True:
            time.sleep(min(ANSWER_S / 4, 1.0))
            while answers and time.monotonic() - answers[0][0] > ANSWER_S:
                answer = answers.popleft()[1]()
                connection = answer and answer.connection  # None once it is read
                if connection and connection.sock:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    made._http.hooks["response"].append(begins)
    threading.Thread(target=cut, name="mdmf-slow-answers", daemon=True).start()


def split(uri: str) -> tuple[str, str]:
    """Bucket and object name of a gs:// URI; the name may be empty."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not bucket:
        raise ValueError(f"{uri}: no bucket: gs://BUCKET/NAME is expected")
    return bucket, name


@contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    """What is missing or forbidden, as the local file system would say it."""
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(f"{uri}: no such bucket or object") from error
    except (Forbidden, Unauthorized) as error:
        raise PermissionError(f"{uri}: {error.message}: grant this account access") from error


def list_objects(bucket: str, prefix: str, start: str = "", end: str = "") -> Iterator[ImageRef]:
    """Lists the objects under a prefix in the order of their names, page by page.

    Args:
        start, end: only names from `start` on and before `end`; empty is no bound.
    """
    blobs = client().list_blobs(
        bucket, prefix=prefix, start_offset=start or None, end_offset=end or None, fields=_LISTED, retry=RETRY
    )
    with _plain_errors(f"gs://{bucket}/{prefix}"):
        for blob in blobs:
            # Empty ones that end in a slash are the folders that consoles draw. An emulator may not know the bounds.
            is_folder = blob.name.endswith("/") and blob.size == 0
            if not is_folder and start <= blob.name and (not end or blob.name < end):
                yield _ref(bucket, blob)


def cut(bucket: str, prefix: str, count: int) -> list[str]:
    """Names that cut all that lies under a prefix into about `count` ranges, up to four times as many; none if it fits
    a page.

    Objects beside folders belong to the range that they sort into.
    """
    if len(list(islice(list_objects(bucket, prefix), _PAGE + 1))) <= _PAGE:
        return []
    cuts, level = set(), [prefix]
    while level and len(cuts) < count:
        level = [folder for parent in level[:count] for folder in _subfolders(bucket, parent)]
        cuts.update(level)
    if len(cuts) < count:
        start = _shared_start(bucket, prefix)
        cuts.update(start + character for character in _NEXT_CHARACTERS)
    return sorted(cuts)[:: 1 + len(cuts) // (4 * count)]


def _subfolders(bucket: str, prefix: str) -> list[str]:
    """Prefixes of the folders right under a prefix, as far as one request tells."""
    blobs = client().list_blobs(
        bucket, prefix=prefix, delimiter="/", max_results=_PAGE, fields="prefixes,nextPageToken", retry=RETRY
    )
    with _plain_errors(f"gs://{bucket}/{prefix}"):
        next(blobs.pages, None)
    return sorted(blobs.prefixes)


def _shared_start(bucket: str, prefix: str) -> str:
    """What all names under a prefix start with, `in/IMG_` of `in/IMG_0001.jpg` and its like: some ten requests."""
    first = next((split(ref.uri)[1] for ref in list_objects(bucket, prefix)), prefix)

    def is_passed(length: int) -> bool:
        """Whether a name sorts behind all that start with so many characters of the first one."""
        return any(True for _ in list_objects(bucket, prefix, f"{first[:length]}\U0010ffff"))

    lengths = range(len(prefix) + 1, len(first) + 1)
    return first[: len(prefix) + bisect_left(lengths, True, key=is_passed)]


def stat_object(uri: str) -> ImageRef | None:
    """What a listing would say of one object; None if it is not there."""
    bucket, name = split(uri)
    blob = client().bucket(bucket).get_blob(name, retry=RETRY) if name else None
    return blob and _ref(bucket, blob)


def _ref(bucket: str, blob: storage.Blob) -> ImageRef:
    # The time of the generation: `updated` moves with the metadata too.
    return ImageRef(
        f"gs://{bucket}/{blob.name}",
        generation=blob.generation,
        size_bytes=blob.size,
        modified_ns=blob.time_created and to_ns(blob.time_created),
        crc32c=blob.crc32c,
    )


def read_object(ref: ImageRef, limits: Limits) -> tuple[bytes, int | None]:
    """Bytes of an image and the generation that they are of: the listed one, or the present one if none was.

    Of one that is larger than the limit and whose size the store did not list, a byte more than the limit is read.

    Raises:
        ImageError: it is gone, was overwritten since it was listed, may not be read, or the store did not answer.
    """
    bucket, name = split(ref.container)
    blob = client().bucket(bucket).blob(name, generation=ref.generation)
    start = end = None
    if ref.offset_bytes is not None:
        start, end = ref.offset_bytes, ref.offset_bytes + ref.size_bytes - 1
    elif ref.size_bytes is None or ref.message is not None:
        # Of unknown size, or of one that a stranger says. One byte over the limit tells; `fetch_image` refuses it.
        start, end = 0, limits.max_bytes
    try:
        content = blob.download_as_bytes(start=start, end=end, raw_download=True, retry=RETRY, timeout=TIMEOUT_S)
    except RequestRangeNotSatisfiable:
        content = b""  # there is no byte 0 in an empty object
    except ERRORS as error:
        raise image_error(error, ref) from error
    if ref.generation is not None and blob.generation not in (ref.generation, None):
        raise _changed(ref)
    is_whole = ref.offset_bytes is None and len(content) <= limits.max_bytes
    if is_whole and ref.crc32c and ref.crc32c != _crc32c(content):
        raise _changed(ref)
    return content, blob.generation or ref.generation


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def _changed(ref: ImageRef) -> ImageError:
    return ImageError(
        ErrorCode.CHANGED, f"overwritten since it was listed: generation {ref.generation} is not there any more"
    )


def image_error(error: Exception, ref: ImageRef) -> ImageError:
    """Why an image could not be read, as its row says it: of `ERRORS`."""
    if isinstance(error, NotFound):
        try:
            overwritten = ref.generation is not None and stat_object(ref.container) is not None
        except ERRORS:
            overwritten = False
        return _changed(ref) if overwritten else ImageError(ErrorCode.NOT_FOUND, "no such object")
    if isinstance(error, Forbidden | Unauthorized):
        return ImageError(ErrorCode.FORBIDDEN, f"{type(error).__name__}: {error}")
    code = ErrorCode.UNAVAILABLE if isinstance(error, RetryError) else ErrorCode.UNREADABLE
    return ImageError(code, f"{type(error).__name__}: {error}")


def open_object(uri: str, generation: int | None = None) -> BinaryIO:
    """Opens an object for reading in ranges.

    Raises:
        FileNotFoundError: there is none.
        NotFound: there is none of that generation.
    """
    bucket, name = split(uri)
    blob = client().bucket(bucket).get_blob(name, generation=generation, retry=RETRY)
    if generation is not None and (blob is None or blob.generation != generation):  # an emulator may know none
        raise NotFound(f"{uri}: generation {generation} is not there")  # `image_error` tells whether another one is
    if blob is None:
        raise FileNotFoundError(f"{uri}: no such object")
    # Pinned, so that an overwrite between two ranges is an error and not a mixture.
    pinned = client().bucket(bucket).blob(name, generation=blob.generation)
    return pinned.open("rb", chunk_size=_CHUNK_BYTES, raw_download=True, retry=RETRY)


def upload(source: Path, uri: str) -> None:
    """Writes a whole local file as one object: readers see all of it or what was there before."""
    bucket, name = split(uri)
    with _plain_errors(uri):
        # In pieces: each has a minute, which a slow link needs for some megabytes.
        blob = client().bucket(bucket).blob(name, chunk_size=_CHUNK_BYTES)
        blob.upload_from_filename(source, checksum="crc32c", retry=RETRY)


def delete(uri: str) -> None:
    """Deletes an object; one that is not there is no error."""
    bucket, name = split(uri)
    with _plain_errors(uri), suppress(NotFound):
        client().bucket(bucket).delete_blob(name, retry=RETRY)
