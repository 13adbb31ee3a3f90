"""`CurrentDetector`: the detector that a pointer file names, exchanged while images go on being scored.

A pointer is a text file, local or gs://, with one line: the folder of the current detector, local or gs://, relative to
the pointer where it is no absolute path. Write a new detector's folder first and the pointer last.

Beam's own model refresh does not do here. It takes the path as a side input, which on the local runner
is read once (its periodic sources do not stream there); and a path that does not load raises within the bundle, which
a service then retries without end, where a moderation queue must go on with the detector that it has.
"""

import logging
import posixpath
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from apache_beam.metrics import Metrics

from mdmf_ops.beam.image import NAMESPACE
from mdmf_ops.beam.load import DetectorOptions, read_id
from mdmf_ops.beam.storage import exists, is_gcs, open_file
from mdmf_ops.detector import Scorer
from mdmf_ops.text import told
from model_assets import MANIFEST, AssetError

_MAX_POINTER_BYTES = 4096

_log = logging.getLogger(__name__)


class CurrentDetector:
    """The current detector of one process; a pointer is read again every few seconds.

    A detector that does not load is counted, logged once, and tried again at the next reading, so that a pointer
    written before its folder was whole mends itself. Until then the one before it scores.
    """

    def __init__(self, options: DetectorOptions, clock: Callable[[], float] = time.monotonic):
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._pointer = options.assets if options.assets and is_pointer(options.assets) else None
        self._folder = read_pointer(self._pointer) if self._pointer else options.assets
        self._detector = options.load(self._folder)
        self._checked_s = clock()
        self._rejected = ""
        self._swaps = Metrics.counter(NAMESPACE, "detector_swaps")
        self._rejections = Metrics.counter(NAMESPACE, "detector_rejections")

    def get(self) -> Scorer:
        """The detector that scores now."""
        # While one thread loads a new detector, the others go on with the old.
        due = self._pointer and self._clock() - self._checked_s >= self._options.check_s
        if due and self._lock.acquire(blocking=False):
            try:
                self._check()
                self._checked_s = self._clock()
            finally:
                self._lock.release()
        return self._detector

    def _check(self) -> None:
        folder = None
        try:
            folder = read_pointer(self._pointer)
            if folder == self._folder:
                self._rejected = ""
                return
            detector = self._options.load(folder)
        except Exception as error:  # whatever is wrong with what a pointer names, the stream goes on
            self._rejections.inc()
            reason = told(f"{type(error).__name__}: {error}")
            if reason != self._rejected:
                kept = self._detector.assets.detector_id
                named = f"names {told(folder)}, which does not load" if folder else "names no detector"
                _log.error("%s %s; %s is kept: %s", self._pointer, named, kept, reason)
            self._rejected = reason
            return
        self._swaps.inc()
        before, after = self._detector.assets.detector_id, detector.assets.detector_id
        _log.warning("%s: detector %s replaces %s", self._pointer, after, before)
        self._folder, self._detector, self._rejected = folder, detector, ""


_loading = threading.Lock()


def current_detector(options: DetectorOptions) -> CurrentDetector:
    """The one of this process: all its threads and transforms share it."""
    with _loading:  # two threads that ask at once would load two
        return _load(options)


@lru_cache(maxsize=4)
def _load(options: DetectorOptions) -> CurrentDetector:
    return CurrentDetector(options)


def current_id(options: DetectorOptions) -> str:
    """Id of the detector that scores in this process now."""
    return current_detector(options).get().assets.detector_id


_NAMED: dict[str | None, tuple[int, str]] = {}
"""Of each `assets`: when the pointer was last looked at, counted in readings that were due, and the id it named."""


def named_id(options: DetectorOptions) -> str:
    """Id of the detector that is named now, from its manifest alone: for workers that do not score."""
    assets, when = options.assets, int(time.monotonic() // max(options.check_s, 1))
    looked_at, named = _NAMED.get(assets, (None, ""))
    if when != looked_at:
        try:
            named = read_id(read_pointer(assets) if assets and is_pointer(assets) else assets)
        except Exception:  # as where they do score: what was named before holds until the pointer is mended
            if not named:
                raise
        _NAMED[assets] = when, named
    return named


def is_pointer(assets: str) -> bool:
    """Whether `assets` is a pointer file and not a detector's folder."""
    return exists(assets) and not exists(posixpath.join(assets, MANIFEST)) if is_gcs(assets) else Path(assets).is_file()


def read_pointer(pointer: str) -> str:
    """The folder that a pointer names.

    Raises:
        AssetError: it is not one line of text.
        OSError: it cannot be read.
    """
    with open_file(pointer) as file:
        content = file.read(_MAX_POINTER_BYTES + 1)
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise AssetError(f"{pointer}: expected a line of text that names a folder, found bytes") from error
    folder = lines[0].strip()
    if len(content) > _MAX_POINTER_BYTES or not folder or any(line.strip() for line in lines[1:]):
        raise AssetError(f"{pointer}: expected one line that names a detector's folder, found {content[:80]!r}")
    return folder if is_gcs(folder) else posixpath.join(posixpath.dirname(pointer), folder)
