"""Detectors as folders, and the loader that checks them.

A detector is a folder with a `manifest.json` that names every file of it with its size and SHA-256. The
detector's id ends in a digest of the manifest, so one id stands for exactly one set of bytes. Nothing is ever
unpickled: weights and bank are safetensors, the rest is JSON.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest. A loader reads its own format only."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_MANIFEST_BYTES = 1 << 20


class AssetError(Exception):
    """A detector's folder is not what its manifest says, or not a detector. Names file, expected and found."""


@dataclass(frozen=True)
class Assets:
    """A folder whose files were checked against its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def detector_id(self) -> str:
        """Name and digest: one id stands for exactly one set of bytes."""
        return self.manifest["detector_id"]

    def sha256(self, file: str) -> str:
        """SHA-256 of one of the files, in hex."""
        return self.manifest["files"][file]["sha256"]

    def table(self, *names: str) -> Mapping[str, Any]:
        """A table of the manifest, each name within the table before. Raises AssetError where it is not there."""
        found = self.manifest
        for name in names:
            found = found.get(name)
            if not isinstance(found, dict):
                raise AssetError(f"{self.folder / MANIFEST}: {' '.join(names)}: not there, or no table")
        return found

    def path(self, file: str) -> Path:
        """Path of a file that the manifest lists."""
        if file not in self.manifest["files"]:
            raise AssetError(f"{self.folder / MANIFEST}: lists no {file}")
        return self.folder / file

    def tensors(self, file: str, template: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Reads a safetensors file that must hold exactly the template's names, shapes and dtypes, all finite."""
        path = self.path(file)
        try:
            tensors = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise AssetError(f"{path}: not a safetensors file: {error}") from error
        if tensors.keys() != template.keys():
            missing, unknown = sorted(template.keys() - tensors), sorted(tensors.keys() - template)
            raise AssetError(
                f"{path}: expected {len(template)} tensors, found {len(tensors)}:"
                f" {_some(missing)} missing, {_some(unknown)} not known"
            )
        for name, tensor in tensors.items():
            expected = (tuple(template[name].shape), template[name].dtype)
            found = (tuple(tensor.shape), tensor.dtype)
            if found != expected:
                raise AssetError(f"{path}: {name}: expected shape and dtype {expected}, found {found}")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise AssetError(f"{path}: {name}: expected finite values, found NaN or infinity")
        return tensors


def embedded() -> Path:
    """Folder of the detector that comes with the package."""
    return Path(__file__).parent / "micro"


def read_assets(folder: Path | str) -> Assets:
    """Reads a detector's manifest and checks every file that it lists.

    Raises:
        AssetError: the manifest or a file is missing, damaged, swapped or of another format.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for file, listed in manifest["files"].items():
        if not (folder / file).is_file():
            raise AssetError(f"{folder / file}: missing, though {MANIFEST} lists it")
        if (found := describe_file(folder / file)) != listed:
            raise AssetError(f"{folder / file}: expected {listed}, found {found}")
    return Assets(folder, manifest)


def read_id(folder: Path | str) -> str:
    """Id of the detector in a folder, of which the manifest alone is checked.

    Raises:
        AssetError: the manifest is missing, damaged or of another format.
    """
    return _read_manifest(Path(folder))["detector_id"]


def listed_files(folder: Path | str) -> dict[str, int]:
    """Names and sizes in bytes of the files that a manifest lists, whether or not they are there yet.

    Raises:
        AssetError: the manifest is missing, damaged or of another format.
    """
    manifest = _read_manifest(Path(folder))
    try:
        return {file: int(listed["bytes"]) for file, listed in manifest["files"].items()}
    except (TypeError, KeyError, ValueError) as error:
        raise AssetError(f"{Path(folder) / MANIFEST}: expected bytes and sha256 of each file: {error!r}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        status = path.stat()
        if status.st_size > _MAX_MANIFEST_BYTES:
            raise AssetError(f"{path}: expected at most {_MAX_MANIFEST_BYTES} bytes, found {status.st_size}")
        if not stat.S_ISREG(status.st_mode):  # a pipe is waited for without end, a device may have no end
            raise AssetError(f"{path}: expected a file, found another thing")
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise AssetError(f"{folder}: no readable {MANIFEST}, so not a detector: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise AssetError(f"{path}: expected manifest format {FORMAT}, found {found!r}")
    name = manifest.get("name")
    if not isinstance(manifest.get("files"), dict) or not (isinstance(name, str) and _FILE_NAME.fullmatch(name)):
        raise AssetError(f"{path}: expected a table of files and a plain name, found the name {name!r}")
    expected = _detector_id(manifest)
    if manifest.get("detector_id") != expected:
        raise AssetError(f"{path}: expected detector_id {expected}, found {manifest.get('detector_id')!r}")
    if odd := [file for file in manifest["files"] if not _FILE_NAME.fullmatch(file)]:
        raise AssetError(f"{path}: expected plain file names, found {odd[0]!r}")
    return manifest


def write_assets(folder: Path, name: str, files: list[str], content: Mapping[str, Any]) -> Assets:
    """Writes the manifest over files that lie in the folder already, and returns the checked assets.

    Args:
        folder: the detector's folder.
        name: first part of the detector's id.
        files: names, within the folder, of all that the score depends on.
        content: what else the manifest says: backbone, signature, bank, training, calibration, created.
    """
    manifest = {"format": FORMAT, "name": name, **content}
    manifest["files"] = {file: describe_file(folder / file) for file in sorted(files)}
    manifest = {"detector_id": _detector_id(manifest), **manifest}
    partial_path = folder / f"{MANIFEST}.tmp"
    partial_path.write_text(json.dumps(manifest, indent=2) + "\n")
    partial_path.replace(folder / MANIFEST)  # whole, or not there
    return read_assets(folder)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as a manifest lists them."""
    size_bytes, digest = 0, hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):  # an extractor may have gigabytes
            size_bytes += len(chunk)
            digest.update(chunk)
    return {"bytes": size_bytes, "sha256": digest.hexdigest()}


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def _detector_id(manifest: Mapping[str, Any]) -> str:
    """Name and digest of everything the manifest says but the id itself."""
    rest = {key: value for key, value in manifest.items() if key != "detector_id"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return f"{manifest['name']}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"
