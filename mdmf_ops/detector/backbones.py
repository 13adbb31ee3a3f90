"""Extractors by the names that manifests give them."""

from collections.abc import Mapping
from typing import Any

from mdmf_ops.defaults import BACKBONES
from mdmf_ops.detector.backbone import Backbone
from mdmf_ops.detector.micro import MicroBackbone


def make_backbone(name: str, options: Mapping[str, Any]) -> Backbone:
    """The extractor that a manifest describes, ready for `load_state_dict(..., assign=True)`.

    Args:
        name: one of `BACKBONES`.
        options: of that extractor; `micro` has none.

    Raises:
        ValueError: no such name, options that do not fit it, or a package that it needs is not installed.
    """
    if name not in BACKBONES:
        raise ValueError(f"expected a backbone of {', '.join(BACKBONES)}, found {name!r}")
    if not isinstance(options, Mapping):
        raise ValueError(f"expected options by name, found {options!r}")
    if name == "micro":
        if options:
            raise ValueError(f"micro has no options, found {sorted(options)}")
        return MicroBackbone()
    try:
        # Here and not above: transformers takes seconds to import, and only who asks for a DINOv2 has it.
        from mdmf_ops.detector.dinov2 import Dinov2Backbone
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} needs {error.name}: pip install 'mdmf-ops[dinov2]' on Python 3.11 or later"
        ) from error
    return Dinov2Backbone(name, options)
