"""Which of the listed images are inputs of a run."""

import datetime
import hashlib
import os
import re
from dataclasses import dataclass

from mdmf_ops.beam.image import ImageRef, split_member, to_ns
from mdmf_ops.beam.run import WRITTEN_FILE
from mdmf_ops.beam.shards import is_shard
from mdmf_ops.beam.storage import is_gcs, local_path
from mdmf_ops.errors import ErrorCode

_WRITTEN = re.compile(WRITTEN_FILE)
_ENDS_AS_WRITTEN = re.compile(rf"/(?:{WRITTEN_FILE})\Z")


@dataclass(frozen=True)
class Filters:
    """Conditions that all must hold. What a listing does not say of an image leaves it in: a row then says why.

    They are of images. A shard that could not be listed stands for all the images behind the damage, and a name that
    was refused is not the image's own: both stay in.

    Attributes:
        suffixes: of the name, in any case; () is every name.
        min_bytes, max_bytes: of the encoded image.
        changed_since: written at this moment or later; aware.
        sample: fraction of the images, chosen by their URI: the same ones in every run with the same seed.
        seed: of the choice.
        output: root of the run's dataset. Where it lies within a source, what runs wrote into it is no image: each
            night would add failed rows. A name alone is not enough: strangers choose those.
    """

    suffixes: tuple[str, ...] = ()
    min_bytes: int | None = None
    max_bytes: int | None = None
    changed_since: datetime.datetime | None = None
    sample: float | None = None
    seed: int = 0
    output: str | None = None

    @property
    def ask_more_than_the_name(self) -> bool:
        """Whether size or time must be known."""
        return (self.min_bytes, self.max_bytes, self.changed_since) != (None, None, None)

    def admit(self, ref: ImageRef) -> bool:
        """Whether an image is an input of the run."""
        size_bytes, modified_ns = ref.size_bytes, ref.modified_ns
        return _is_no_image(ref) or (
            (not self.suffixes or ref.uri.lower().endswith(tuple(map(str.lower, self.suffixes))))
            and (self.min_bytes is None or size_bytes is None or size_bytes >= self.min_bytes)
            and (self.max_bytes is None or size_bytes is None or size_bytes <= self.max_bytes)
            and (self.changed_since is None or modified_ns is None or modified_ns >= to_ns(self.changed_since))
            and (self.sample is None or _uniform(f"{self.seed}\n{ref.uri}") < self.sample)
            and not self._is_written(ref)
        )

    def _is_written(self, ref: ImageRef) -> bool:
        # Who fills a tar chooses the names in it, `x/../../scores/_runs/r1.json` too.
        if self.output is None or split_member(ref.uri)[1] is not None:
            return False
        if _lies_as_written(ref.uri, self.output):
            return True
        if is_gcs(ref.uri) or is_gcs(self.output) or not _ENDS_AS_WRITTEN.search(ref.uri):
            return False
        # A link may lead to the output, or to the source.
        folder, name = os.path.split(local_path(ref.uri))
        return _lies_as_written(f"{os.path.realpath(folder)}/{name}", os.path.realpath(self.output))


def _lies_as_written(path: str, output: str) -> bool:
    return path.startswith(f"{output}/") and _WRITTEN.fullmatch(path, len(output) + 1) is not None


def _is_no_image(ref: ImageRef) -> bool:
    return ref.error is not None and (ref.error.code is ErrorCode.BAD_URI or is_shard(ref.uri))


def _uniform(text: str) -> float:
    """A number in [0, 1) that follows from the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
