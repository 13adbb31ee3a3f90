"""The `mdmf` command: finds the verb, shows errors in a line, sets the exit status."""

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mdmf_ops
from mdmf_ops.text import told

# Of each verb: its module is imported only when it is asked for, so that `mdmf scan` needs no training extra.
VERBS = {
    "scan": "score images of folders, globs and buckets into Parquet",
    "latest": "show the newest row of every image over all runs",
    "report": "make one page of HTML of what an output holds",
    "explain": "say why one image got its verdict, with its map",
    "runs": "list, verify and clean the runs of an output",
    "schema": "show the columns of a row, for people, programs and BigQuery",
    "stream": "score images as they are uploaded: Pub/Sub in, alerts and Parquet out",
    "train": "train a detector from labelled images",
    "calibrate": "give a detector its p-values, from real images it was not trained on",
    "evaluate": "measure a detector on labelled images and write its model card",
    "assets": "fetch, list and verify what detectors are made of",
    "completion": "print a script by which a shell completes these commands",
}

_EXTRAS = {"stream": "gcp", "train": "train", "calibrate": "train", "evaluate": "train", "assets": "beam,dinov2"}
"""Of the verbs that need another extra than `beam`."""

_HEAVY = {
    "scan": "apache_beam",
    "stream": "google.cloud.pubsub_v1",
    "explain": "apache_beam",
    "train": "rich",
    "calibrate": "sklearn",
    "evaluate": "sklearn",
    "assets": "rich",
}
"""Verbs that import Beam or torch, which takes seconds: their arguments are apart, in `mdmf_ops.arguments`. Each with a
module by which it is seen whether its extra is installed."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

# Read when gRPC is imported: its C writes of connections that end, and cron would mail that after a good night.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
"""What a path starts with that was made of a URI: of its slashes one is left."""

DESCRIPTION = """\
Finds AI-generated images at scale: folders, buckets or a stream in, one Parquet
row per image out. Images of this machine are scored here, and none leaves it.

    mdmf scan ~/Pictures --output scores  score every image under a folder
    mdmf latest scores                    what was found, image by image
    mdmf report scores                    the same as a page: charts, maps
    mdmf explain photo.jpg                why one image got its verdict
    mdmf latest scores --json             rows for a program; --sql for DuckDB
    mdmf schema                           what the columns of a row are
    mdmf VERB --help                      what a verb does, with examples
"""

EPILOG = """\
exit status: 0 done, and what was asked for is complete; 1 it failed, is not
complete, or what was checked is damaged; 2 the command cannot be carried out
as it is given. Results go to stdout, progress and errors to stderr.

A verdict is evidence, not an action: likely_ai is wrong for up to a fraction
alpha of real images, and likely_real does not mean authentic.
"""


class UsageError(Exception):
    """The command as given cannot be carried out; the message says why and what to do."""


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names, in verbs too: `--input photo.jpg` is not an --input_list."""

    def __init__(self, *, allow_abbrev: bool = False, **settings: Any):
        super().__init__(allow_abbrev=allow_abbrev, **settings)


class MissingExtraError(Exception):
    """A verb that lacks a module, of an extra mostly; the message says how to get it."""


def make_parser(asked: Collection[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of the command, and the modules of the verbs asked for; only their arguments are known to it.

    Raises:
        MissingExtraError: a verb that is asked for needs a module that is not here.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="mdmf", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"mdmf {mdmf_ops.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    modules = {}
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary)
        if verb in asked:
            modules[verb] = module = _import(verb, "arguments" if verb in _HEAVY else "commands")
            verb_parser.description = module.__doc__
            verb_parser.epilog = EPILOG
            verb_parser.formatter_class = raw
            module.add_arguments(verb_parser)
    return parser, modules


def _import(verb: str, room: str = "commands") -> ModuleType:
    """The module of a verb in a room. Raises MissingExtraError where it, or what is heavy of the verb, is not here."""
    try:
        if verb in _HEAVY and importlib.util.find_spec(_HEAVY[verb]) is None:
            raise ModuleNotFoundError(name=_HEAVY[verb])
        return importlib.import_module(f"mdmf_ops.{room}.{verb}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(_missing(verb, error.name or "")) from error


def _missing(verb: str, module: str) -> str:
    """What a verb lacks, and what to do: others have a package `pipelines` too, and Python takes the first one."""
    spec = importlib.util.find_spec("pipelines") if module.startswith("pipelines") else None
    if spec is None:
        return f"mdmf {verb} needs {module}: pip install 'mdmf-ops[{_EXTRAS.get(verb, 'beam')}]'"
    places = ", ".join(spec.submodule_search_locations or [str(spec.origin)])
    return f"mdmf {verb} needs {module} of mdmf-ops, which {places} hides: keep that off PYTHONPATH, or start elsewhere"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; without `argv`, it may end this process with it."""
    if argv is None:
        _open_streams()
    status = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None and status != EXIT_OK:
        # Workers that are threads may still be scoring: were Python to end under them, the process would abort.
        with contextlib.suppress(OSError):  # of a reader that is gone, or a full disk
            sys.stdout.flush()
        os._exit(status)
    return status


def _open_streams() -> None:
    """Opens the streams that were closed as this process was started: the next files would have their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))


def complain(what: str) -> None:
    """Says on stderr what went wrong. Where nobody reads that any more, the status still says it."""
    with contextlib.suppress(OSError):
        print(what, file=sys.stderr, flush=True)


def stop_writing() -> None:
    """Whoever reads standard output has read enough, as `head` does: what is still written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    asked = next((word for word in argv if not word.startswith("-")), "")
    status = EXIT_OK
    try:
        parser, modules = make_parser([asked])
        arguments, rest = parser.parse_known_args(argv)
        if asked == "scan" and is_among("--input", rest):
            parser.error("--input: mdmf scan names its sources without it: mdmf scan photos --output scores")
        takes_beams = rest and getattr(modules[asked], "TAKES_BEAM_FLAGS", False)
        unknown = _unknown_to_beam(asked, rest, vars(arguments)) if takes_beams else rest
        if unknown:
            parser.error(told(f"unknown, or out of place: {' '.join(unknown)}; see mdmf {asked} --help"))
        _refuse_uris(arguments)
        status = _import(asked).run(arguments, rest)
        sys.stdout.flush()
        return status
    except MissingExtraError as error:
        complain(str(error))
        return EXIT_USAGE
    except (UsageError, ImportError) as error:  # the latter of what gs:// needs, and is imported where one is met
        complain(f"mdmf {asked}: {told(str(error))}")
        return EXIT_USAGE
    except BrokenPipeError:
        stop_writing()
        return status
    except Exception as error:
        if not _is_outside(error):
            raise
        complain(f"mdmf {asked}: {told(str(error) or type(error).__name__)}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        how = "; the same command starts it anew" if asked == "scan" else ""
        complain(f"mdmf {asked}: interrupted{how}")
        return EXIT_FAILED


def _is_outside(error: Exception) -> bool:
    """Whether something else is missing, forbidden, full or out of reach: a traceback says no more of it."""
    gcs = sys.modules.get("mdmf_ops.beam.gcs")  # imported where a gs:// URI was met
    return isinstance(error, (OSError, *(gcs.ERRORS if gcs else ())))


def _unknown_to_beam(verb: str, flags: list[str], ours: Collection[str]) -> list[str]:
    """Of flags that go to Beam, those that it would drop without a word.

    Another runner than that of this machine may know more of them than Beam does itself, but none that is nearly ours.
    """
    _import(verb)  # with its pipeline, whose options Beam then knows
    from pipelines.options import misspelt, unknown_to_beam  # which needs Beam

    unknown = unknown_to_beam(flags)
    if not is_among("--runner", flags):
        return unknown
    return [flag for flag in unknown if not flag.startswith("--") or misspelt(flag, ours)]


def is_among(option: str, flags: list[str]) -> bool:
    """Whether flags of a command line name an option, with a value or without."""
    return any(flag.partition("=")[0] == option for flag in flags)


def _refuse_uris(arguments: argparse.Namespace) -> None:
    """Raises UsageError for a URI where a local path is meant: it would be read or written as a folder `gs:`."""
    for name, value in vars(arguments).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and _URI.match(str(path)):
                raise UsageError(f"{name} {path}: a local path is expected, not a URI")
