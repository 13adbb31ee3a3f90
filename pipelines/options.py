"""What the options of all pipelines need."""

import argparse


def allow_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Lets two pipelines have flags of one name: Beam puts the options of all that are imported into one parser."""
    # The second is where argparse keeps the options that are in no group; it has no public name for it.
    for container in (parser, parser._optionals):
        container.conflict_handler = "resolve"
