"""`DetectorOptions`: how a worker loads its detector, from a folder or a bucket, for itself or for all processes."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import model_assets
from mdmf_ops.beam.shared import SharedDetector
from mdmf_ops.beam.storage import is_gcs, open_file
from mdmf_ops.defaults import CHECK_S, DEFAULT_ALPHA, PRECISIONS
from mdmf_ops.detector import Detector, Scorer
from mdmf_ops.detector.detector import pick_device
from mdmf_ops.images.decode import Limits
from model_assets import MANIFEST, AssetError, listed_files

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class DetectorOptions:
    """What a worker needs to load its detector.

    Attributes:
        assets: folder of the detector or pointer to it, local or gs://; None is the embedded one.
        alpha: level of the verdict.
        device: `auto`, `cpu` or `cuda`.
        precision: `float32`, or `bfloat16` where that keeps the scores; see `mdmf_ops.detector.precision`.
        limits: what is refused before decoding.
        check_s: how often a pointer is read, in seconds.
        threads: images on their way at once in a process; None is what suits the device.
        share: whether the processes of a machine share one network; None: where it runs on a GPU.
    """

    assets: str | None = None
    alpha: float = DEFAULT_ALPHA
    device: str = "auto"
    precision: str = PRECISIONS[0]
    limits: Limits = field(default_factory=Limits)
    check_s: float = CHECK_S
    threads: int | None = None
    share: bool | None = None

    def load(self, folder: str | None) -> Scorer:
        """Loads the detector in a folder. Raises what `Detector.load` does, and OSError."""
        device = pick_device(self.device)
        load = partial(_load, folder, device=device.type, precision=self.precision, threads=self.threads)
        if self.share or (self.share is None and device.type != "cpu"):
            of = (read_id(folder), device.type, self.precision)
            return SharedDetector(load, of, alpha=self.alpha, limits=self.limits)
        return load(alpha=self.alpha, limits=self.limits)

    def shown(self) -> dict[str, Any]:
        """What a step that scores by them shows."""
        assets = self.assets or "embedded"
        return {"assets": assets, "alpha": self.alpha, "device": self.device, "precision": self.precision}


def _load(folder: str | None, **options: Any) -> Detector:
    with local_copy(folder) as local:
        return Detector.load(local, **options)


def read_id(folder: str | None) -> str:
    """Id of the detector in a folder, of which the manifest alone is read and checked."""
    with local_copy(folder, whole=False) as local:
        return model_assets.read_id(model_assets.embedded() if local is None else local)


@contextlib.contextmanager
def local_copy(folder: str | None, *, whole: bool = True) -> Iterator[str | None]:
    """A folder where the loader can read it: one in a bucket is copied file by file, as its manifest lists them, or
    the manifest alone. What is found to be wrong with the copy is said of the bucket."""
    if folder is None or not is_gcs(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mdmf-assets-") as local:
        try:
            _download(folder, MANIFEST, local)
            for name, size_bytes in listed_files(local).items() if whole else ():
                _download(folder, name, local, size_bytes)
            yield local
        except AssetError as error:
            raise AssetError(str(error).replace(local, folder.rstrip("/"))) from error


def _download(folder: str, name: str, local: str, max_bytes: int = 1 << 20) -> None:
    with open_file(f"{folder.rstrip('/')}/{name}") as source, open(Path(local, name), "wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            max_bytes -= len(chunk)
            if max_bytes < 0:
                raise AssetError(f"{folder}/{name}: larger than its manifest says")
            copy.write(chunk)
