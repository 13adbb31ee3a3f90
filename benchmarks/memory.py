"""Peak memory and time of the worst single files, above a worker that waits: decoder and scorer together.

    python benchmarks/memory.py                 the corpus, then pictures at the limit of pixels; a few minutes
    python benchmarks/memory.py --largest_only

Every file is scored alone, as a worker does it: `Detector` here, its decoder in a process of its own. A peak is the
sum of the two processes' high-water marks (Linux: VmHWM, set back before each file), less what they held when idle
before the first: an upper bound, since they need not peak at once. It ends with 1 where a file takes more than 600 MB
or 10 s.
"""

import argparse
import io
import multiprocessing
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from corpus.make import cases  # noqa: E402
from processes import family  # noqa: E402

from mdmf_ops.detector import Detector  # noqa: E402
from mdmf_ops.errors import ImageError  # noqa: E402
from mdmf_ops.images.decode import Limits  # noqa: E402

_MAX_BYTES, _MAX_S = 600_000_000, 10.0


def largest(side_px: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    """Pictures of so many px, each of a kind that takes much memory: some fit the limits, others must be refused.

    Args:
        side_px: height and width; the grain in them makes the encoded files large.
    """
    height_px, width_px = side_px
    grain = np.random.default_rng(0).integers(96, 160, (256, 256, 3), dtype=np.uint8)
    tiled = np.tile(grain, (-(-height_px // 256), -(-width_px // 256), 1))[:height_px, :width_px]
    colour = Image.fromarray(tiled)
    yield "JPEG", _encoded(colour, "JPEG", quality=70)
    yield "JPEG, progressive, 4:2:0", _encoded(colour, "JPEG", quality=60, progressive=True)
    yield "JPEG, progressive, 4:4:4", _encoded(colour, "JPEG", quality=75, progressive=True, subsampling=0)
    yield "JPEG, CMYK", _encoded(colour.convert("CMYK"), "JPEG", quality=50)
    yield "PNG, RGB", _encoded(colour, "PNG", compress_level=1)
    yield "TIFF, LZW", _encoded(colour, "TIFF", compression="tiff_lzw")
    yield "GIF", _encoded(Image.fromarray(tiled[..., 0]), "GIF")
    del colour
    yield "PNG, RGBA of 16 bits", _png_of_16_bits(height_px, width_px)
    frames = [Image.fromarray(np.roll(tiled[:2580, :2580], i, 0)) for i in range(12)]
    for kind in ("WEBP", "GIF", "PNG"):
        yield f"{kind} of 12 frames", _encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _write_largest(folder: Path, side_px: tuple[int, int]) -> None:
    for number, (name, content) in enumerate(largest(side_px)):
        (folder / f"{number:02d} {name}").write_bytes(content)


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png_of_16_bits(height_px: int, width_px: int) -> bytes:
    """Pillow writes none: every row is the same, deflated as it is made."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + np.arange(4 * width_px, dtype=">u2").tobytes()
    deflate = zlib.compressobj(1)
    data = b"".join(deflate.compress(row) for _ in range(height_px)) + deflate.flush()
    head = struct.pack(">IIBBBBB", width_px, height_px, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _set_back() -> None:
    for pid in family(os.getpid()):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _held_bytes(name: str) -> int:
    """Sum over this process and its decoder of VmRSS or VmHWM."""
    held = 0
    for pid in family(os.getpid()):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        held += 1024 * int(fields[name].split()[0])
    return held


def measure(detector: Detector, content: bytes, idle_bytes: int) -> tuple[str, int, float]:
    """Code (or `scored`), peak bytes above idle and seconds of one file; the file itself counts."""
    _set_back()
    began_s = time.monotonic()
    [result] = detector.score([content])
    took_s = time.monotonic() - began_s
    code = result.code.value if isinstance(result, ImageError) else "scored"
    return code, _held_bytes("VmHWM") - idle_bytes, took_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--largest_only", action="store_true", help="leave the corpus out")
    parser.add_argument("--megapixels", type=float, default=79, help="of the largest pictures")
    arguments = parser.parse_args()
    height_px = int((arguments.megapixels * 1e6 / 1.2) ** 0.5)
    with tempfile.TemporaryDirectory(prefix="mdmf-memory-") as folder:
        # Made in another process: their pixels would be in this one's peak.
        size = (height_px, int(1.2 * height_px))
        maker = multiprocessing.get_context("spawn").Process(target=_write_largest, args=(Path(folder), size))
        maker.start()
        maker.join()
        return _measure_all(Path(folder), arguments.largest_only)


def _measure_all(folder: Path, largest_only: bool) -> int:
    detector = Detector.load(device="cpu")
    [warm] = detector.score([_encoded(Image.new("RGB", (512, 512), "grey"), "PNG")])
    idle_bytes = _held_bytes("VmRSS")
    print(f"idle: {idle_bytes / 1e6:.0f} MB, {type(warm).__name__}", flush=True)
    worst, slowest = (0, ""), (0.0, "")
    if not largest_only:
        for name, content, _ in cases():
            _code, peak_bytes, took_s = measure(detector, content, idle_bytes)
            worst, slowest = max(worst, (peak_bytes, name)), max(slowest, (took_s, name))
        print(f"corpus: at most {worst[0] / 1e6:.0f} MB ({worst[1]}), {slowest[0]:.1f} s ({slowest[1]})", flush=True)
    for path in sorted(folder.iterdir()):
        name, content = path.name[3:], path.read_bytes()
        shown = f"| {name} | {len(content) / 1e6:.1f} MB |"
        if len(content) > Limits().max_bytes:
            print(shown, "not under the limit of bytes |", flush=True)
            continue
        code, peak_bytes, took_s = measure(detector, content, idle_bytes)
        worst, slowest = max(worst, (peak_bytes, name)), max(slowest, (took_s, name))
        print(shown, f"{code} | {peak_bytes / 1e6:.0f} MB | {took_s:.1f} s |", flush=True)
    is_too_much = worst[0] > _MAX_BYTES or slowest[0] > _MAX_S
    print(f"at most {worst[0] / 1e6:.0f} MB ({worst[1]}), {slowest[0]:.1f} s ({slowest[1]})", "TOO MUCH" * is_too_much)
    return int(is_too_much)


if __name__ == "__main__":
    sys.exit(main())
