"""What the verbs that read an output share: its committed runs, or one line that says why there are none to read."""

import argparse
from typing import Any

from mdmf_ops.beam.commit import ManifestError, read_manifests
from mdmf_ops.beam.run import dataset_root
from mdmf_ops.cli import UsageError


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that names an output."""
    parser.add_argument("output", metavar="OUTPUT", help="root folder of a dataset, local or gs://")


def committed_runs(
    output: str, run_id: str | None = None, *, may_lack: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """The root of an output, and the manifests of its committed runs, oldest first, or that of one of them.

    Args:
        may_lack: whether an output without any will do.

    Raises:
        UsageError: it is no place for an output; a manifest is damaged; no run was committed there, or none of that id.
    """
    try:
        root = dataset_root(output)
        manifests = read_manifests(root)
    except (ValueError, ManifestError) as error:
        raise UsageError(str(error)) from error
    if not manifests and not may_lack:
        raise UsageError(f"{root}: no committed run there; make one with mdmf scan ... --output {root}")
    if run_id is None:
        return root, manifests
    found = [manifest for manifest in manifests if manifest["run_id"] == run_id]
    if not found:
        raise UsageError(f"--run_id {run_id}: no such committed run; see mdmf runs list {root}")
    return root, found
