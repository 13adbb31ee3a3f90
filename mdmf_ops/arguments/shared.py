"""Arguments that several verbs or pipelines have."""

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mdmf_ops.defaults import DEFAULT_ALPHA, DEVICES, PRECISIONS

_ACCELERATOR = re.compile(r"type:[a-z0-9-]+;count:[1-9]\d*(;install-nvidia-driver(:[a-z0-9.-]+)?)?")
_RAM = re.compile(r"[1-9]\d*(\.\d+)?[KMGT]i?B")


def bounded(kind: Callable[[str], float], least: float, most: float, what: str) -> Callable[[str], float]:
    """A type of argument: `what`, a number from `least` to `most`, which NaN is not."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"{text} is not {what}")

    return parse


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name labelled images, and where work is kept."""
    group = parser.add_argument_group("labelled images: an index, or folders whose subfolders are the sources")
    group.add_argument(
        "--index", type=Path, nargs="+", default=[], metavar="CSV", help="columns path, label (real or fake), source"
    )
    group.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="columns path, real_path, both relative to the CSV: generated twins, of the index, and their real images",
    )
    group.add_argument("--real", type=Path, nargs="+", default=[], metavar="DIR", help="folders of real images")
    group.add_argument("--fake", type=Path, nargs="+", default=[], metavar="DIR", help="folders of generated images")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("work"),
        metavar="DIR",
        help="computed features and checkpoints; an interrupted command goes on from the last that is finished"
        " (default: %(default)s)",
    )


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """How images are scored, whatever they come from, and whom to believe of what files say of themselves."""
    parser.add_argument(
        "--alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="call an image likely_ai where its p-value is at most this: at most about the share of real images that"
        " is called so in error (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default=DEVICES[0],
        help="where the network runs; auto takes CUDA where there is one; rows and manifest say which it was"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the network's arithmetic; bfloat16 is taken only where it keeps the scores, which is tried when the"
        " detector is loaded; rows and manifest say which it was (default: %(default)s)",
    )
    parser.add_argument(
        "--c2pa_trust",
        metavar="PEM",
        help="certificates of those who vouch for signers of C2PA manifests, local or gs://: a signature that leads to"
        " one is `trusted`, any other that holds `valid` (default: nobody vouches)",
    )


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """What a service's workers have where they score."""
    service = parser.add_argument_group("workers of a service", "of the steps that read and score, and no other")
    service.add_argument(
        "--accelerator",
        type=_accelerator,
        metavar="SPEC",
        help="GPU of each worker: type:nvidia-tesla-t4;count:1;install-nvidia-driver; the network must then run on"
        " it: a worker that sees none stops",
    )
    service.add_argument("--scoring_ram", type=_ram, metavar="SIZE", help="least memory of a worker: 13GB")


def _accelerator(text: str) -> str:
    if not _ACCELERATOR.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 'type:nvidia-tesla-t4;count:1;install-nvidia-driver' (quote it: a shell ends its"
            " command at a semicolon)"
        )
    return text


def _ram(text: str) -> str:
    if not _RAM.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 13GB or 12GiB")
    return text
