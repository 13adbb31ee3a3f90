"""What a user could score a folder with: each contender in a process of its own, doing the same work.

Run by bench.py: python benchmarks/contenders.py NAME FOLDER RESULT.json WORKERS. Every contender scores every JPEG of
the folder with the embedded detector, and says when each score was there, and what it is.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdmf_ops.detector import Detector
from mdmf_ops.heap import keep_free_memory
from mdmf_ops.images.tiles import decode_tiles

Scores = dict[str, float]

_BATCH = 32
"""Images that are read ahead, where a contender reads them in batches: as many as a scan has in one."""


def read_tiles(path: str | Path, detector: Detector) -> np.ndarray:
    """A file's tiles, decoded in this process: the process of its own that `mdmf scan` decodes in is a cost of safety
    that the others do not bear."""
    return decode_tiles(Path(path).read_bytes(), detector.terms.geometry, detector.limits).tiles


def mean_evidence(detector: Detector, tiles: np.ndarray) -> float:
    """The score of an image's tiles."""
    return float(detector.evidence(tiles).mean(dtype=np.float64))


def load(threads: int = 1) -> Detector:
    """The embedded detector on so many threads of the CPU."""
    torch.set_num_threads(threads)
    return Detector.load(device="cpu")


def _ideal_share(paths: list[str]) -> tuple[float, float, float, Scores]:
    detector = load()
    keep_free_memory()  # as a scan's workers do
    mean_evidence(detector, read_tiles(paths[0], detector))  # the first one waits for what is set up late
    first_s, decode_s, model_s, scores = time.time(), 0.0, 0.0, {}
    for path in paths:
        started_s = time.perf_counter()
        tiles = read_tiles(path, detector)
        decoded_s = time.perf_counter()
        scores[Path(path).name] = mean_evidence(detector, tiles)
        decode_s, model_s = decode_s + decoded_s - started_s, model_s + time.perf_counter() - decoded_s
    return first_s, decode_s, model_s, scores


def ideal(paths: list[str], workers: int) -> dict[str, Any]:
    """Decoding and scoring in a bare loop on every core: what they take without anything around them."""
    with get_context("spawn").Pool(workers) as pool:
        shares = pool.map(_ideal_share, [paths[i::workers] for i in range(workers)], chunksize=1)
    scores = {name: score for share in shares for name, score in share[3].items()}
    decode_s, model_s = (sum(share[i] for share in shares) / len(paths) for i in (1, 2))
    return {
        "scores": scores,
        "decode_s": decode_s,
        "model_s": model_s,
        "decode_only_per_s": workers / decode_s,
        "model_only_per_s": workers / model_s,
        "images_per_s": workers / (decode_s + model_s),
    }


class Files(torch.utils.data.Dataset):
    """Name and tiles of each file."""

    def __init__(self, paths: Sequence[str | Path], detector: Detector):
        self._paths, self._detector = paths, detector

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray]:
        return Path(self._paths[index]).name, read_tiles(self._paths[index], self._detector)


def dataloader(paths: list[str], workers: int) -> dict[str, Any]:
    """The loop that everybody writes first: workers decode, the main process scores."""
    detector, scores, times_s = load(workers), {}, []
    loader = torch.utils.data.DataLoader(Files(paths, detector), batch_size=None, num_workers=workers)
    for name, tiles in loader:
        scores[name] = mean_evidence(detector, np.asarray(tiles))
        times_s.append(time.time())
    return {"scores": scores, "times_s": times_s}


class _Scored(Files):
    def __getitem__(self, index: int) -> tuple[str, float, float]:
        torch.set_num_threads(1)
        name, tiles = super().__getitem__(index)
        return name, mean_evidence(self._detector, tiles), time.time()


def scoring_workers(paths: list[str], workers: int) -> dict[str, Any]:
    """The loop's best form on CPUs: each worker decodes and scores on one thread, and the main process collects."""
    loader = torch.utils.data.DataLoader(_Scored(paths, load()), batch_size=None, num_workers=workers)
    found = list(loader)
    return {"scores": {name: score for name, score, _ in found}, "times_s": [at_s for _, _, at_s in found]}


class _RayScorer:
    def __init__(self):
        self._detector = load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tiles = (read_tiles(path, self._detector) for path in batch["item"])
        scores = [(mean_evidence(self._detector, each), time.time()) for each in tiles]
        return {
            "item": batch["item"],
            "score": np.array([s for s, _ in scores]),
            "at": np.array([t for _, t in scores]),
        }


def ray_data(paths: list[str], workers: int) -> dict[str, Any]:
    """Ray Data's `map_batches` over actors, one a core."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, logging_level="error", configure_logging=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items([{"item": path} for path in paths], override_num_blocks=4 * workers)
    rows = data.map_batches(_RayScorer, batch_size=_BATCH, concurrency=workers, num_cpus=1).take_all()
    scores = {Path(row["item"]).name: float(row["score"]) for row in rows}
    return {"scores": scores, "times_s": [float(row["at"]) for row in rows]}


class StockModel(torch.nn.Module):
    """The detector as a module of batches of tiles (B, T, 3, H, W), which Beam's own handler can load."""

    def __init__(self):
        super().__init__()
        self._detector = load()
        self.backbone = self._detector.backbone

    def forward(self, batch: torch.Tensor) -> list[tuple[float, float]]:
        return [(mean_evidence(self._detector, tiles.numpy()), time.time()) for tiles in batch]


def _decode_keyed(path: str) -> tuple[str, torch.Tensor]:
    if not hasattr(_decode_keyed, "detector"):
        _decode_keyed.detector = load()
    return path, torch.from_numpy(read_tiles(path, _decode_keyed.detector))


def beam_stock(paths: list[str], workers: int) -> dict[str, Any]:
    """Beam with its own `PytorchModelHandlerTensor`, after a function that decodes."""
    import apache_beam as beam
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
    from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
    from apache_beam.options.pipeline_options import PipelineOptions

    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.pt"
        torch.save(StockModel().state_dict(), weights)
        handler = PytorchModelHandlerTensor(weights, StockModel, {}, device="CPU", max_batch_size=_BATCH)
        mode = "multi_processing" if workers > 1 else "in_memory"
        flags = {"runner": "FnApiRunner", "direct_num_workers": workers, "direct_running_mode": mode}
        with beam.Pipeline(options=PipelineOptions([], **flags)) as pipeline:
            (
                pipeline
                | beam.Create(paths)
                | beam.Reshuffle()
                | beam.Map(_decode_keyed)
                | RunInference(KeyedModelHandler(handler))
                | beam.MapTuple(lambda path, result: f"{path}\t{result.inference[0]}\t{result.inference[1]}")
                | beam.io.WriteToText(f"{folder}/scores")
            )
        lines = [line.split("\t") for part in Path(folder).glob("scores*") for line in part.read_text().splitlines()]
    return {"scores": {Path(p).name: float(s) for p, s, _ in lines}, "times_s": [float(t) for _, _, t in lines]}


def scan(paths: list[str], workers: int) -> dict[str, Any]:
    """`mdmf scan`, to the committed Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mdmf_ops", "scan", str(Path(paths[0]).parent), "--output", folder]
        subprocess.run(
            [*command, "--device", "cpu", "--workers", str(workers), "--json"], check=True, capture_output=True
        )
        end_s = time.time()  # with the commit, and the end of the process
        return _read_rows(folder) | {"end_s": end_s}


def _read_rows(folder: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    rows = pq.ParquetDataset(folder).read(["image_uri", "mmd2", "scanned_at"]).to_pylist()
    times_s = [row["scanned_at"].timestamp() for row in rows]
    return {"scores": {Path(row["image_uri"]).name: row["mmd2"] for row in rows}, "times_s": times_s}


def _without_beam_share(paths: list[str], file: str) -> None:
    import pyarrow.parquet as pq

    from mdmf_ops.beam.fetch import fetch_image
    from mdmf_ops.beam.packed import pack, unpack
    from mdmf_ops.beam.run import Run
    from mdmf_ops.beam.score import make_row
    from mdmf_ops.beam.sources import local_ref

    run, detector, packed = Run.start("nowhere"), load(), []
    keep_free_memory()
    for start in range(0, len(paths), _BATCH):
        images = [fetch_image(local_ref(path), detector.limits) for path in paths[start : start + _BATCH]]
        scores = detector.scores([image.content for image in images])
        packed.append(pack(make_row(image, score, detector, run) for image, score in zip(images, scores, strict=True)))
    pq.write_table(unpack(packed), file)


def without_beam(paths: list[str], workers: int) -> dict[str, Any]:
    """All that a scan does with an image, in bare loops: what Beam costs is the rest."""
    with tempfile.TemporaryDirectory() as folder:
        shares = [(paths[i::workers], f"{folder}/{i}.parquet") for i in range(workers)]
        with get_context("spawn").Pool(workers) as pool:
            pool.starmap(_without_beam_share, shares, chunksize=1)
        return _read_rows(folder)


CONTENDERS: dict[str, Callable[[list[str], int], dict[str, Any]]] = {
    "ideal": ideal,
    "mdmf scan": scan,
    "without Beam": without_beam,
    "DataLoader": dataloader,
    "DataLoader, scoring": scoring_workers,
    "Ray Data": ray_data,
    "Beam, stock handler": beam_stock,
}


def steady_rate(times_s: Sequence[float]) -> float:
    """Images a second while all workers are at work: from a tenth of the images to nine tenths of them."""
    ordered = sorted(times_s)
    first, last = len(ordered) // 10, len(ordered) - 1 - len(ordered) // 10
    return (last - first) / (ordered[last] - ordered[first])


def main() -> None:
    name, folder, result, workers = sys.argv[1:]
    started_s = float(os.environ.get("BENCH_STARTED_S") or time.time())
    found = CONTENDERS[name](sorted(map(str, Path(folder).glob("*.jpg"))), int(workers))
    end_s = found.pop("end_s", time.time())
    if times_s := found.pop("times_s", None):
        found |= {"images_per_s": steady_rate(times_s), "start_s": min(times_s) - started_s}
        found["with_start_per_s"] = len(times_s) / (end_s - started_s)
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
