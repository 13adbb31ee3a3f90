"""A clean environment: this package as its sdist installs it, and nothing of the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PACKAGES = ("mdmf_ops", "pipelines", "model_assets")

_SOURCES = (*PACKAGES, "setup.py", "pyproject.toml", "MANIFEST.in", "constraints.txt")
_PAPERS = ("README.md", "CHANGELOG.md", "LICENSE", "NOTICE")
_DEADLINE_S = 60


def build_sdist(folder: Path) -> Path:
    """Builds the sdist from a copy of the sources: a build in the checkout would leave files there."""
    for name in (*_SOURCES, *_PAPERS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    run([sys.executable, "setup.py", "--quiet", "sdist"], cwd=folder)
    [sdist] = (folder / "dist").iterdir()
    return sdist


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder outside the checkout to run in."""

    folder: Path
    cwd: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def variables(self) -> dict[str, str]:
        """Of its processes. Its `bin` comes first: a worker pool starts whatever `python` it finds there."""
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return ours | {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def run(self, *command: str) -> str:
        """Runs one of its commands to the end; returns what it printed."""
        return run([str(self.bin / command[0]), *command[1:]], cwd=self.cwd, env=self.variables())

    @contextmanager
    def serve(self, module: str, *arguments: str) -> Iterator[subprocess.Popen]:
        """Runs a module as a service for as long as the block takes."""
        with open(self.cwd / f"{module}.log", "wb") as log:
            command = [str(self.bin / "python"), "-m", module, *arguments]
            process = subprocess.Popen(command, cwd=self.cwd, env=self.variables(), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def make_environment(folder: Path, sdist: Path) -> Environment:
    """An environment into which the sdist is installed by pip.

    What others wrote comes by reference from the environment that runs the tests: installing it anew would take a
    minute. A `.pth` file's folder is searched, but its own `.pth` files are not read, so that an editable install
    of the checkout does not come with it.
    """
    environment = Environment(folder / "env", folder / "elsewhere")
    environment.cwd.mkdir()
    run([sys.executable, "-m", "venv", "--without-pip", str(environment.folder)])
    (environment.packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(environment.bin / "python"), "--quiet", "install"]
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--no-compile")
    run([*pip, *options, "--disable-pip-version-check", str(sdist)], cwd=environment.cwd)
    return environment


def run(command: list[str], **options) -> str:
    """Runs a command; one that fails shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    return done.stdout


def wait_for(path: Path) -> str:
    """Content of a file that a service writes once it is up."""
    end_s = time.monotonic() + _DEADLINE_S
    while not path.exists():
        assert time.monotonic() < end_s, f"{path} is not there after {_DEADLINE_S} s"
        time.sleep(0.05)
    return path.read_text()
