"""Print a script by which a shell completes verbs, options and files.

    mdmf completion bash > ~/.local/share/bash-completion/completions/mdmf
    mdmf completion zsh > ~/.zfunc/_mdmf                 (a folder of $fpath)
    mdmf completion fish > ~/.config/fish/completions/mdmf.fish

The script is text: pressing TAB starts no Python. Print it again after an update.
"""

import argparse

import shtab

from mdmf_ops.cli import EXIT_OK, VERBS, MissingExtraError, make_parser

_PATHS = {"INPUT", "IMAGE", "OUTPUT", "PREVIOUS_OUTPUT", "FILE", "FOLDER", "DIR", "CSV", "JSON", "PEM"}
"""Metavars of arguments that may be local paths; some are named with others, as DIR|POINTER is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell reads it")


def run(arguments: argparse.Namespace, _rest: list[str]) -> int:
    parser, _modules = make_parser([verb for verb in VERBS if _is_installed(verb)])
    _mark_paths(parser)
    print(shtab.complete(parser, arguments.shell))
    return EXIT_OK


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Has the names of files completed where an argument is one."""
    for action in parser._actions:  # argparse has no public list of them
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _mark_paths(child)
        elif _PATHS & {*(action.metavar or "").split("|")}:
            action.complete = shtab.FILE


def _is_installed(verb: str) -> bool:
    """Whether a verb's packages are here; the others are completed by name alone."""
    try:
        make_parser([verb])
    except MissingExtraError:
        return False
    return True
