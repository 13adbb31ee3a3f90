"""All that can be set of a training: `TrainingConfig`."""

import dataclasses
import sys
from dataclasses import dataclass

METHODS = ("fisher", "mmd")

_POSITIVE = ("kernel_width", "learning_rate")
_LEAST = {
    "copies": 1,
    "bank_size": 2,  # the mean over pairs needs two, of an image's patches too
    "between_sources": 0,
    "steps": 11,  # the learning rate rises for a tenth of them, which must be more than one
    "batch_images": 1,
    "patches_per_image": 2,
    "batch_bank_patches": 8,  # one image's, see _PATCHES_PER_BANK_IMAGE
    "weight_decay": 0,
    "hidden_dim": 0,  # a linear signature
    "signature_dim": 1,
    "seed": 0,
}
_MOST = {"seed": 2**64 - 1}  # what torch takes
_MOST_OF_ALL = 1 << 20  # whole numbers, but the seed: more than any memory or patience
"""Bounds of settings: outside of them nothing is learned, or what cannot be loaded."""


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a training; kept in the detector's manifest.

    Attributes:
        method: `fisher` solves for a signature of one number a view (`fisher_signature`); `mmd` trains an MLP on the
            image's own score (`ImageMmdLoss`), as the paper does.
        copies: how often each image goes through the random chain.
        bank_size: signatures in the detector's bank.
        kernel_width, between_sources, in_common: of `fisher`.
        steps, batch_images, patches_per_image: of the optimisation.
        batch_bank_patches: real patches that stand for the bank in a step.
        learning_rate, weight_decay: of AdamW; the rate rises for a tenth of the steps, then falls to zero.
        hidden_dim, signature_dim, dropout: of the signature's MLP. These and the four lines above are of `mmd`.
        seed: of everything random.
    """

    method: str = "fisher"
    copies: int = 3
    bank_size: int = 2048
    kernel_width: float = 2.0
    between_sources: float = 0.01
    in_common: float = 0.7
    steps: int = 600
    batch_images: int = 48
    patches_per_image: int = 24
    batch_bank_patches: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    hidden_dim: int = 128
    signature_dim: int = 32
    dropout: float = 0.2
    seed: int = 0

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """A configuration from a file's content. Raises ValueError for a name, type or value that cannot be meant."""
        if not isinstance(values, dict):
            raise ValueError(f"settings are an object of names and values, found {values!r}")
        known = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"{name} is no setting; there are {', '.join(known)}")
            whole_too = known[name] | int if known[name] is float else known[name]
            if not isinstance(value, whole_too) or isinstance(value, bool):
                raise ValueError(f"{name} must be of type {known[name].__name__}, found {value!r}")
            if name in _POSITIVE and not 0 < value <= sys.float_info.max:  # nor is NaN
                raise ValueError(f"{name} must be positive and finite, found {value!r}")
            if name in _LEAST and not _LEAST[name] <= value <= sys.float_info.max:
                raise ValueError(f"{name} must be finite and at least {_LEAST[name]}, found {value!r}")
            if known[name] is int and value > (most := _MOST.get(name, _MOST_OF_ALL)):
                raise ValueError(f"{name} must be at most {most}, found {value!r}")
        if values.get("method", cls.method) not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, found {values['method']!r}")
        if not 0 <= values.get("in_common", cls.in_common) <= 1:
            raise ValueError(f"in_common is from 0 to 1, found {values['in_common']!r}")
        if not 0 <= values.get("dropout", cls.dropout) < 1:
            raise ValueError(f"dropout is from 0 to less than 1, found {values['dropout']!r}")
        return cls(**values)
