"""MDMF Ops: finds AI-generated images at scale. The walk: `beam/` reads, `detector/` scores, `beam/` writes."""

import os

__version__ = "0.1.0"

# ONNX Runtime would report to its makers. Read when it is imported; its own function of that name comes too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
