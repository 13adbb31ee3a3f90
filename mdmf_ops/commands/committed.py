"""What the verbs that read an output share: its committed runs, or one line that says why there are none to read."""

from typing import Any

from mdmf_ops.cli import UsageError


def require_runs(output: str, manifests: list[dict[str, Any]]) -> None:
    """Raises UsageError where no run was committed."""
    if not manifests:
        raise UsageError(f"{output}: no committed run there; make one with mdmf scan ... --output {output}")


def only_run(output: str, manifests: list[dict[str, Any]], run_id: str) -> list[dict[str, Any]]:
    """The manifest of one run, in a list. Raises UsageError where none has that id."""
    found = [manifest for manifest in manifests if manifest["run_id"] == run_id]
    if not found:
        raise UsageError(f"--run_id {run_id}: no such committed run; see mdmf runs list {output}")
    return found
