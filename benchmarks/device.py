"""Images a second on one device, backbone by backbone: the network alone, from decoded pixels, and from bytes.

    python benchmarks/device.py --device cuda --csv benchmarks/device.csv --markdown benchmarks/device.md
    python benchmarks/device.py --backbones micro --image_px 512 --seconds 5

`micro` is the embedded detector; each DINOv2 has random weights, made on the spot: they do for speed. `forward` is the
raw rate: tiles that lie on the device already, through the backbone and nothing else. `pixels` is
`Detector.score_tiles` of images that are decoded and not cut yet, `bytes` is `Detector.score` of JPEGs, both with the
detector's own threads; `decode` is decoding alone with as many. `limit` says what keeps `bytes` from 85 % of `forward`:
the network where nothing does, decoding where that is hardly faster than scoring from pixels, else what lies around the
network.
"""

import argparse
import csv
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import encode, photo  # noqa: E402

from mdmf_ops import __version__  # noqa: E402
from mdmf_ops.cores import usable_cores  # noqa: E402
from mdmf_ops.defaults import DEVICES, PRECISIONS  # noqa: E402
from mdmf_ops.detector import Calibration, Detector  # noqa: E402
from mdmf_ops.detector.backbone import Backbone  # noqa: E402
from mdmf_ops.detector.backbones import make_backbone  # noqa: E402
from mdmf_ops.detector.bank import Bank  # noqa: E402
from mdmf_ops.detector.detector import exact_convolutions, pick_device  # noqa: E402
from mdmf_ops.detector.signature import Signature  # noqa: E402
from mdmf_ops.images.decode import decode  # noqa: E402
from mdmf_ops.images.tiles import cut_tiles, plan_tiles, tile_image  # noqa: E402

BACKBONES = ("micro", "dinov2-small", "dinov2-base", "dinov2-large", "dinov2-giant")

GOAL = 0.85
"""`bytes` aims at this share of `forward`."""

_SHOWN = ("backbone", "precision", "image_px", "tiles", "forward", "pixels", "bytes", "share", "decode", "limit")

_BANK, _SIGNATURE_DIM = 2048, 32


def main(argv: list[str] | None = None) -> int:
    """Measures each backbone on images of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS[:1])
    parser.add_argument("--image_px", type=int, nargs="+", default=[512, 1024], help="side of the square JPEGs")
    parser.add_argument("--images", type=int, default=32, help="how many different ones")
    parser.add_argument("--seconds", type=float, default=10, help="each rate is taken over at least so long")
    parser.add_argument("--threads", type=int, help="of the detector (default: its own choice)")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    arguments = parser.parse_args(argv)
    device = pick_device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # as a worker process has
    results = []
    for name in arguments.backbones:
        for precision in arguments.precision:
            detector = make_detector(name, device, precision, arguments.threads)
            for side_px in arguments.image_px:
                images = [encode(photo(i, side_px, side_px), quality=90) for i in range(arguments.images)]
                results.append(measure(name, detector, images, arguments.seconds))
                print(_line(results[-1]), flush=True)
            del detector
    if arguments.csv:
        append(arguments.csv, results)
    if arguments.markdown:
        arguments.markdown.write_text(table(results))
    return 0


def make_detector(name: str, device: torch.device, precision: str, threads: int | None = None) -> Detector:
    """The embedded detector, or one around a DINOv2 of random weights with a bank and a calibration of any numbers."""
    if name == "micro":
        loaded = Detector.load(device="cpu")
        parts = (loaded.backbone, loaded.signature, loaded.bank, loaded.calibration)
        assets = loaded.assets
    else:
        backbone = random_dinov2(name)
        generator = torch.Generator().manual_seed(0)
        signature = Signature(backbone.embedding_dim, 128, _SIGNATURE_DIM)
        bank = Bank.build(torch.randn(1, _BANK, _SIGNATURE_DIM, generator=generator), signature.width.detach())
        parts = (backbone, signature, bank, Calibration.of("any", np.arange(1000.0)))
        assets = None
    return Detector(*parts, device=device, precision=precision, threads=threads, assets=assets)


def random_dinov2(name: str) -> Backbone:
    """A published DINOv2 without its weights."""
    from mdmf_ops.detector.dinov2 import SIZES  # takes transformers, which `micro` does without

    hidden, layers, heads, swiglu = SIZES[name]
    options = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": 518}
    backbone = make_backbone(name, options | {"use_swiglu_ffn": swiglu})
    backbone.model.to_empty(device="cpu")
    for parameter in backbone.model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.02)
    return backbone


def measure(name: str, detector: Detector, images: list[bytes], seconds: float) -> dict[str, Any]:
    """Rates of one detector on images of one size, and where they were taken."""
    decoded = [decode(content) for content in images]
    width_px, height_px = decoded[0].image.size
    geometry = detector.terms.geometry
    tiles = cut_tiles(decoded[0].image, plan_tiles(height_px, width_px, geometry))
    resident = torch.from_numpy(tiles).to(detector.device)
    with ThreadPoolExecutor(detector.threads) as pool:
        rates = {
            "forward": _rate(lambda: _forward(detector, resident), 1, seconds),
            "pixels": _rate(
                lambda: list(pool.map(lambda image: detector.score_tiles(tile_image(image, geometry)), decoded)),
                len(images),
                seconds,
            ),
            "bytes": _rate(lambda: detector.score(images), len(images), seconds),
            "decode": _rate(lambda: list(pool.map(decode, images)), len(images), seconds),
        }
    share = rates["bytes"] / rates["forward"]
    limit = "network" if share >= GOAL else "decoding" if rates["decode"] < rates["pixels"] / GOAL else "overhead"
    return {
        "backbone": name,
        "device": detector.terms.device,
        "precision": detector.terms.precision,
        "image_px": width_px,
        "tiles": len(tiles),
        "tile_px": tiles.shape[-1],
        **{key: round(rate, 2) for key, rate in rates.items()},
        "share": round(share, 3),
        "limit": limit,
        "threads": detector.threads,
        "cores": usable_cores(),
        "load_1min": round(os.getloadavg()[0], 1),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "mdmf_ops": __version__,
        "measured_at": time.strftime("%Y-%m-%d", time.gmtime()),
    }


@torch.inference_mode()
def _forward(detector: Detector, tiles: torch.Tensor) -> None:
    """One image's tiles through the backbone, in the batches of `Backbone.embed`, and nothing around it."""
    device = detector.device
    fast = detector.terms.precision != PRECISIONS[0]
    with exact_convolutions(device), torch.autocast(device.type, torch.bfloat16, enabled=fast):
        for part in tiles.split(1 if device.type == "cpu" else len(tiles)):
            detector.backbone(part)
    if device.type == "cuda":
        # Only what was queued two images before is waited for: the device always has the next one.
        event = torch.cuda.Event()
        event.record()
        _QUEUED.append(event)
        if len(_QUEUED) > 2:
            _QUEUED.popleft().synchronize()


_QUEUED: deque[torch.cuda.Event] = deque()


def _rate(work: Callable[[], Any], images: int, seconds: float) -> float:
    """Images a second, over at least so many seconds after a first time that does not count."""
    work()
    _wait()
    done, started_s = 0, time.perf_counter()
    while not done or time.perf_counter() - started_s < seconds:
        work()
        done += images
    _wait()
    return done / (time.perf_counter() - started_s)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def append(path: Path, results: list[dict[str, Any]]) -> None:
    """Adds lines to a CSV, with a first line of names where the file is new."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, results[0])
        if new:
            writer.writeheader()
        writer.writerows(results)


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown; what is the same for all of them comes first."""
    first = results[0]
    about = ("device", "machine", "cores", "threads", "python", "torch", "cuda", "mdmf_ops", "measured_at")
    lines = [f"Images a second. {', '.join(f'{name} {first[name]}' for name in about)}.", ""]
    lines += [f"| {' | '.join(_SHOWN)} |", f"|{'---|' * len(_SHOWN)}"]
    lines += [f"| {' | '.join(str(result[name]) for name in _SHOWN)} |" for result in results]
    return "\n".join(lines) + "\n"


def _line(result: dict[str, Any]) -> str:
    return "  ".join(f"{name} {result[name]}" for name in _SHOWN)


if __name__ == "__main__":
    sys.exit(main())
