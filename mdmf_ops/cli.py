"""The `mdmf` command: finds the verb, shows errors in a line, sets the exit status."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import mdmf_ops

# Of each verb: its module is imported only when it is asked for, so that `mdmf scan` needs no training extra.
VERBS = {
    "scan": "score images of folders, globs and buckets into Parquet",
    "latest": "show the newest row of every image over all runs",
    "runs": "list, verify and clean the runs of an output",
    "schema": "show the columns of a row, for people, programs and BigQuery",
    "stream": "score images as they are uploaded: Pub/Sub in, alerts and Parquet out",
    "train": "train a detector from labelled images",
    "calibrate": "give a detector its p-values, from real images it was not trained on",
    "evaluate": "measure a detector on labelled images and write its model card",
    "assets": "fetch, list and verify what detectors are made of",
}

EXTRAS = {"stream": "gcp", "train": "train", "calibrate": "train", "evaluate": "train", "assets": "beam,dinov2"}
"""Of the verbs that need another extra than `beam`."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

EPILOG = """\
exit status: 0 done, the run is complete; 1 the run failed and is not complete; 2 the command cannot be carried out.

A verdict is evidence, not an action: likely_ai is wrong for about a fraction alpha of real images,
and likely_real does not mean authentic.
"""


class UsageError(Exception):
    """The command as given cannot be carried out; the message says why and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="mdmf",
        description="Finds AI-generated images at scale.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mdmf {mdmf_ops.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    asked = next((word for word in argv if not word.startswith("-")), None)
    module = None
    for verb, summary in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=summary)
        if verb == asked:
            try:
                module = importlib.import_module(f"mdmf_ops.commands.{verb}")
            except ModuleNotFoundError as error:
                extra = EXTRAS.get(verb, "beam")
                print(f"mdmf {verb} needs {error.name}: pip install 'mdmf-ops[{extra}]'", file=sys.stderr)
                return EXIT_USAGE
            verb_parser.description = module.__doc__
            verb_parser.epilog = EPILOG
            verb_parser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(verb_parser)
    arguments, rest = parser.parse_known_args(argv)
    if rest and not getattr(module, "TAKES_BEAM_FLAGS", False):
        parser.error(f"unknown: {' '.join(rest)}; see mdmf {asked} --help")
    try:
        return module.run(arguments, rest)
    except UsageError as error:
        print(f"mdmf {asked}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print(f"mdmf {asked}: interrupted; the same command with the same --run_id goes on", file=sys.stderr)
        return EXIT_FAILED
