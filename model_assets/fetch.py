"""A published checkpoint to two files on this disk: from the model hub, a bucket or a folder, at set-up time.

Only a configuration and safetensors are ever asked for: nothing that would have to be unpickled.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from model_assets import AssetError, describe_file

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as `save_pretrained` of `transformers` leaves it.

    Attributes:
        source: hub id, URI or folder, as it was asked for.
        revision: commit on the hub; None for the others.
        config, weights: the two files.
        weights_sha256: of `weights`, in hex: what the hub shows of the file.
    """

    source: str
    revision: str | None
    config: Path
    weights: Path
    weights_sha256: str


def fetch_checkpoint(source: str, revision: str | None, folder: Path) -> Checkpoint:
    """Brings a checkpoint's files to this disk.

    Args:
        source: a folder, a URI such as `gs://bucket/folder`, or a hub id such as `facebook/dinov2-large`.
        revision: commit on the hub, 40 hex digits; a branch or a tag may move. None for a folder or a URI.
        folder: where the files from a bucket are put. Those of the hub stay in its own cache, where an interrupted
            download goes on; those of a folder stay where they are.

    Raises:
        AssetError: what it names cannot be read, or a file is not what the hub says it is.
    """
    on_hub = "://" not in source and not Path(source).is_dir()
    if revision is not None and not on_hub:
        raise AssetError(f"{source}: a revision goes with a hub id; a folder or a bucket has none")
    if on_hub:
        config, weights = _from_hub(source, revision)
    elif "://" in source:
        config, weights = (_copy(f"{source.rstrip('/')}/{file}", folder / file) for file in (CONFIG_FILE, WEIGHTS_FILE))
    else:
        config, weights = (Path(source, file) for file in (CONFIG_FILE, WEIGHTS_FILE))
    for path in (config, weights):
        if not path.is_file():
            raise AssetError(f"{source}: no {path.name} in it; {CONFIG_FILE} and {WEIGHTS_FILE} are read, whole")
    sha256 = describe_file(weights)["sha256"]
    published = weights.resolve().name  # the hub's cache names a large file by the SHA-256 that the hub tells
    if on_hub and _SHA256.fullmatch(published) and published != sha256:
        raise AssetError(f"{source}: {WEIGHTS_FILE}: expected SHA-256 {published}, found {sha256}; fetch it again")
    return Checkpoint(source, revision, config, weights, sha256)


def _from_hub(hub_id: str, revision: str | None) -> tuple[Path, Path]:
    if not _HUB_ID.fullmatch(hub_id):
        raise AssetError(f"{hub_id}: no such folder, and neither a URI nor a hub id")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise AssetError(
            f"{hub_id}: expected --revision with a commit of 40 hex digits, found {revision!r};"
            " the hub's page of the model lists its commits"
        )
    try:
        from huggingface_hub import hf_hub_download, logging
    except ModuleNotFoundError as error:
        raise AssetError(
            f"{hub_id}: the hub needs {error.name}: pip install 'mdmf-ops[dinov2]' on Python 3.11 or later"
        ) from error
    logging.set_verbosity_error()  # its retries; what fails in the end is told below, in a line
    try:
        config, weights = (hf_hub_download(hub_id, file, revision=revision) for file in (CONFIG_FILE, WEIGHTS_FILE))
    # The hub's client leaks errors of its own, of its HTTP library and of the system, some with advice over lines.
    except Exception as error:
        raise AssetError(f"{hub_id}: cannot be fetched from the hub at {revision}: {_first_line(error)}") from error
    return Path(config), Path(weights)


def _copy(uri: str, path: Path) -> Path:
    try:
        from apache_beam.io.filesystem import CompressionTypes
        from apache_beam.io.filesystems import FileSystems
    except ModuleNotFoundError as error:
        raise AssetError(f"{uri}: a bucket needs {error.name}: pip install 'mdmf-ops[gcp]'") from error
    try:
        with (
            FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as source,
            open(path, "wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
    except Exception as error:  # each file system has errors of its own
        raise AssetError(f"{uri}: cannot be read: {_first_line(error)}") from error
    return path


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
