"""The `mdmf` command: finds the verb, shows errors in a line, sets the exit status."""

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from types import ModuleType

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

EXTRAS = {"stream": "gcp", "train": "train", "calibrate": "train", "evaluate": "train", "assets": "beam,dinov2"}
"""Of the verbs that need another extra than `beam`."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

DESCRIPTION = """\
Finds AI-generated images at scale: folders, buckets or a stream in, one Parquet row per image out.

    mdmf scan ~/Pictures --output scores      score every image under a folder; nothing leaves this machine
    mdmf latest scores                        what was found, image by image
    mdmf report scores                        the same as a page for a browser, with charts and maps
    mdmf explain photo.jpg                    why one image got its verdict
    mdmf latest scores --json                 rows for a program; --sql for DuckDB
    mdmf schema                               what the columns of a row are
    mdmf VERB --help                          what a verb does, with examples
"""

EPILOG = """\
exit status: 0 done, and what was asked for is complete; 1 it failed, is not complete, or what was checked is damaged;
2 the command cannot be carried out as it is given. Results go to stdout, progress and errors to stderr.

A verdict is evidence, not an action: likely_ai is wrong for up to a fraction alpha of real images,
and likely_real does not mean authentic.
"""


class UsageError(Exception):
    """The command as given cannot be carried out; the message says why and what to do."""


class MissingExtraError(Exception):
    """A verb whose packages are not installed; the message says how to get them."""


def make_parser(asked: Collection[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of the command, and the modules of the verbs asked for; only their arguments are known to it.

    Raises:
        MissingExtraError: a verb that is asked for needs packages that are not here.
    """
    wide = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=18, width=100)
    parser = argparse.ArgumentParser(prog="mdmf", description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    parser.add_argument("--version", action="version", version=f"mdmf {mdmf_ops.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    modules = {}
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary)
        if verb in asked:
            try:
                modules[verb] = module = importlib.import_module(f"mdmf_ops.commands.{verb}")
            except ModuleNotFoundError as error:
                extra = EXTRAS.get(verb, "beam")
                raise MissingExtraError(f"mdmf {verb} needs {error.name}: pip install 'mdmf-ops[{extra}]'") from error
            verb_parser.description = module.__doc__
            verb_parser.epilog = EPILOG
            verb_parser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(verb_parser)
    return parser, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; without `argv`, it may end this process with it."""
    status = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None and status != EXIT_OK:
        # Workers that are threads may still be scoring: were Python to end under them, the process would abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(argv: list[str]) -> int:
    asked = next((word for word in argv if not word.startswith("-")), "")
    try:
        parser, modules = make_parser([asked])
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    arguments, rest = parser.parse_known_args(argv)
    module = modules[asked]
    if rest and not getattr(module, "TAKES_BEAM_FLAGS", False):
        parser.error(f"unknown: {' '.join(rest)}; see mdmf {asked} --help")
    try:
        status = module.run(arguments, rest)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"mdmf {asked}: {told(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        print(f"mdmf {asked}: interrupted; the same command with the same --run_id goes on", file=sys.stderr)
        return EXIT_FAILED
