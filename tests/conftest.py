"""Images made by the tests themselves, good and broken."""

import datetime
import io
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import model_assets
from mdmf_ops.schema import SCHEMA, SCHEMA_VERSION

ROOT = Path(__file__).parent.parent

FULL = os.environ.get("MDMF_FULL") == "1"
"""Whether the tests that take minutes at full size are run so: MDMF_FULL=1."""


def encode(pixels: np.ndarray, image_format: str = "JPEG", **options) -> bytes:
    """Encodes (H, W, 3) uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(seed: int, height_px: int = 96, width_px: int = 128) -> np.ndarray:
    """A smooth random picture with some grain, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC), float)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def tiny(i: int) -> bytes:
    """A PNG of 64 x 64 px, another for each i below 4,096, in about a hundred bytes."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[i % 64, i // 64] = 255
    return encode(pixels, "PNG")


BROKEN = {
    "empty.jpg": b"",
    "text.jpg": b"this is no image at all\n" * 20,
    "page.png": b"<!doctype html><html><body>404 not found</body></html>",
    "half.jpg": encode(photo(1))[:-700],
    "half.png": encode(photo(2), "PNG")[:-5000],
    "half.webp": encode(photo(3), "WEBP")[:-300],
    "noise.bin": np.random.default_rng(4).bytes(3000),
    "tiny.png": encode(photo(5, 16, 200), "PNG"),
    "header.jpg": encode(photo(6))[:40],
    "zeros.tiff": bytes(1000),
}
"""Files that no image comes out of, by name: each must become one failed row."""


def write_images(folder: Path, good: int, broken: int = 0) -> Path:
    """Fills a folder tree with `good` images of several formats and `broken` files that are none."""
    formats = ("JPEG", "PNG", "WEBP", "BMP")
    for i in range(good):
        path = folder / f"day{i % 3}" / f"image{i:05d}.{formats[i % 4].lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(i, 64 + 32 * (i % 3), 96), formats[i % 4]))
    for i in range(broken):
        name, content = list(BROKEN.items())[i % len(BROKEN)]
        path = folder / "broken" / f"{i:03d}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def make_row(uri: str, status: str = "scored") -> dict:
    """A row that the schema takes, of an image that nobody scored."""
    scored = status == "scored"
    return {
        **dict.fromkeys(SCHEMA.names),
        "row_id": uri,
        "run_id": "r1",
        "scanned_at": datetime.datetime.now(datetime.timezone.utc),
        "image_uri": uri,
        "status": status,
        "error_code": None if scored else "corrupt",
        "verdict": "likely_real" if scored else None,
        "alpha": 0.01,
        "detector_id": "d",
        "backbone": "micro",
        "signature_sha256": "s",
        "bank_sha256": "b",
        "schema_version": SCHEMA_VERSION,
        "attributes": [],
    }


def files_in(output: Path | str) -> list[str]:
    """Every file under an output, relative to it."""
    root = Path(output)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def copy_detector(folder: Path, name: str) -> str:
    """The embedded detector under another name, and so with another id; gives the id."""
    shutil.copytree(model_assets.embedded(), folder)
    manifest = json.loads((folder / model_assets.MANIFEST).read_text())
    rest = {key: manifest[key] for key in manifest.keys() - {"format", "name", "files", "detector_id"}}
    return model_assets.write_assets(folder, name, list(manifest["files"]), rest).detector_id


@pytest.fixture
def run_pipeline():
    """Runs a pipeline in this process: `with run_pipeline() as p: p | ...`."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    def start(**options):
        return beam.Pipeline(options=PipelineOptions([], runner="FnApiRunner", **options))

    return start


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """By which line a pipeline, run as a module, refuses flags: `refusal(module, flags)`. Nothing is begun by then."""

    def told(module, flags: list[str]) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "launch", None)
        with pytest.raises(SystemExit) as ended:
            module.main(flags)
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert not list(tmp_path.iterdir())
        return line

    return told


@pytest.fixture(scope="session")
def pubsub_service():
    """Address of a Pub/Sub emulator that serves all tests: it takes seconds to start. Their topics have other names."""
    from pubsub import PubSubEmulator

    emulator = PubSubEmulator()
    yield emulator.address
    emulator.end()


@pytest.fixture(scope="module")
def emulator(pubsub_service):
    """Address at which a module's tests and their processes find Pub/Sub."""
    from pubsub import pointed_at

    with pointed_at(pubsub_service):
        yield pubsub_service


_FIRST = (
    *("test_verbs.py", "test_stream_faults.py", "test_stream.py", "test_subscription.py", "test_local.py"),
    *("test_killed.py", "test_scan_faults.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first. A worker that is done takes tests off another's end: there long ones would be
    waited for, and what a module makes once would be made twice.
    """
    items.sort(key=lambda item: _FIRST.index(item.path.name) if item.path.name in _FIRST else len(_FIRST))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As a worker has: two threads that contend for a core are many times slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def plain_logging():
    """What is logged is heard, whatever ran in this process before: a command sets levels, as its own process may."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("mdmf_ops").setLevel(logging.NOTSET)
