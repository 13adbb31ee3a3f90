"""From a row back to the bytes that it is of, for whoever wants to see or dispute it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import IN_MESSAGE, Image, ImageRef, split_member
from mdmf_ops.beam.shards import find_member
from mdmf_ops.beam.storage import is_gcs, local_path, local_ref
from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import Limits


def reread(row: Mapping[str, Any], limits: Limits) -> Image:
    """Reads a row's image again: the generation that was scored, or the same bytes as another, checked by its SHA-256.

    Returns:
        The bytes of the row, or an error: `not_found` where the image is gone, `changed` where other bytes are there
        now, or another one that says why they cannot be read. Never other bytes.
    """
    uri = row["image_uri"]
    ref = ImageRef(uri, row["image_generation"])
    if row["image_sha256"] is None:
        return Image(ref, None, ImageError(ErrorCode.UNREADABLE, "the row is of no bytes: they were not read"))
    if uri.startswith(IN_MESSAGE):
        why = "the message was the image itself, and no copy of it is kept"
        return Image(ref, None, ImageError(ErrorCode.NOT_FOUND, why))
    container, member = split_member(uri)
    if member is not None:
        shard = ImageRef(container, ref.generation)
        if not is_gcs(container):
            shard = local_ref(local_path(container))
        ref = find_member(uri, shard)._replace(uri=uri)
    image = fetch_image(ref, limits)
    if member is None and ref.generation is not None and image.error and image.error.code is ErrorCode.CHANGED:
        # Whoever moves an object to another storage class or key writes the same bytes as another generation.
        rewritten = fetch_image(ImageRef(uri), limits)
        if rewritten.content is not None and _is_of(rewritten.content, row):
            return rewritten
    if image.content is not None and not _is_of(image.content, row):
        message = f"other bytes are there now: expected SHA-256 {row['image_sha256']}"
        return Image(image.ref, None, ImageError(ErrorCode.CHANGED, message))
    return image


def _is_of(content: bytes, row: Mapping[str, Any]) -> bool:
    return hashlib.sha256(content).hexdigest() == row["image_sha256"]
