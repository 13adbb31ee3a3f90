"""What follows from the options that pipelines share."""

import argparse
import difflib
import logging
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner, create_runner

from mdmf_ops.beam.storage import absolute, is_gcs, open_file, store_errors
from mdmf_ops.detector import Detector
from mdmf_ops.provenance import check_anchors

STREAMING_RIGHT_FITTING = "enable_streaming_rightfitting"
"""Dataflow's experiment by which resource hints hold in a stream too; it needs horizontal autoscaling."""

_NEARLY = 0.8
"""How alike two names are of which one is the other misspelt: `sufix` and `suffix` are .91."""

_MAX_TRUST_BYTES = 2 << 20
"""They travel with the pipeline, of which a service takes 10 MB."""

_Options = TypeVar("_Options", bound=PipelineOptions)


def allow_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Lets two pipelines have flags of one name: Beam puts the options of all that are imported into one parser."""
    # The second is where argparse keeps the options that are in no group; it has no public name for it.
    for container in (parser, parser._optionals):
        container.conflict_handler = "resolve"


def check_detector(options: argparse.Namespace) -> None:
    """Finds out before any worker starts what would stop all of them; what only they may have is theirs to read.

    Raises:
        AssetError: a detector on this machine is damaged.
        ValueError: the level is none that its calibration has.
    """
    assets = options.assets
    if assets is None or (not is_gcs(assets) and Path(assets).is_dir()):
        Detector.load(assets, alpha=options.alpha, device="cpu")


def trust_anchors(options: argparse.Namespace) -> str | None:
    """What --c2pa_trust holds; its name becomes absolute. Workers get the certificates, and need not have the file.

    Raises:
        ValueError: it cannot be read, or signatures cannot be checked against it.
    """
    if options.c2pa_trust is None:
        return None
    options.c2pa_trust = absolute(options.c2pa_trust)
    try:
        with open_file(options.c2pa_trust) as file:
            anchors = file.read(_MAX_TRUST_BYTES + 1).decode(errors="replace")
        if len(anchors) > _MAX_TRUST_BYTES:
            raise ValueError(f"expected at most {_MAX_TRUST_BYTES} bytes")
        check_anchors(anchors)
    except (OSError, ValueError, *store_errors(options.c2pa_trust)) as error:
        raise ValueError(f"--c2pa_trust {options.c2pa_trust}: {error}") from error
    return anchors


def scoring_hints(options: argparse.Namespace) -> dict[str, str]:
    """Beam resource hints of the steps that read and score.

    Both have the same ones, so that a runner fuses them: images go from one to the other in memory, while the refs
    before them are shuffled.
    """
    hints = {"accelerator": options.accelerator, "min_ram": options.scoring_ram}
    return {name: value for name, value in hints.items() if value}


def scoring_device(options: argparse.Namespace) -> str:
    """Where the network must run.

    Raises:
        ValueError: a GPU is asked for and refused.
    """
    if options.accelerator and options.device == "cpu":
        raise ValueError("--accelerator asks for a GPU, --device cpu for none: leave one of them out")
    # A GPU asked for must be used: were `auto` to fall back, a whole fleet of them would idle.
    return "cuda" if options.accelerator else options.device


def named_runner(options: PipelineOptions) -> PipelineRunner | None:
    """The runner that options name, in whichever of the ways that Beam takes."""
    try:
        return create_runner(options.view_as(StandardOptions).runner or StandardOptions.DEFAULT_RUNNER)
    except Exception:  # Beam says what is wrong with a name when it is to run there
        return None


def unknown_to_beam(flags: Sequence[str]) -> list[str]:
    """Of the words of a command line, those that neither Beam nor a pipeline that is imported knows."""
    unknown: list[str] = []
    # Beam hands out its parser, and not what that does not know.
    with_beams = {"add_extra_args_fn": lambda parser: unknown.extend(parser.parse_known_args(flags)[1])}
    PipelineOptions([]).get_all_options(**with_beams)
    return unknown


def misspelt(flag: str, ours: Collection[str]) -> str | None:
    """The one of our options that an unknown flag nearly names; None where it names none."""
    name = flag.partition("=")[0].removeprefix("--")
    return next(iter(difflib.get_close_matches(name, ours, 1, _NEARLY)), None) if flag.startswith("--") else None


def read_options(kind: type[_Options], argv: Sequence[str]) -> _Options:
    """The options of a command line.

    Ends the process, as argparse does, for a flag that is nearly one of ours, and for a word that belongs to none, as
    of a glob that was not quoted: Beam would drop them and run all the same.
    """
    options = kind(argv)
    ours = options.get_all_options(current_only=True)
    unknown = unknown_to_beam(argv)
    # Of a flag that another runner may know.
    values = {word for flag, word in pairwise(argv) if flag in unknown and flag.startswith("--") and "=" not in flag}
    for word in unknown:
        if name := misspelt(word, ours):
            refuse(f"{word}: --{name} is meant?")
        if not word.startswith("-") and word not in values:
            refuse(f"{word}: belongs to no flag; each takes one value: quote a glob, and repeat the flag for another")
    return options


def refuse(why: str) -> NoReturn:
    """Ends the process as argparse does where a command cannot be carried out."""
    argparse.ArgumentParser(usage=argparse.SUPPRESS).error(why)


def show_beams_log() -> None:
    """Beam says there, and nowhere else, under which id a service made a job: Airflow cancels it by that."""
    logging.basicConfig()
    logging.getLogger().setLevel(logging.INFO)
