"""One run of a scan: its name, its day and where its files lie."""

import datetime
import re
import secrets
from dataclasses import dataclass

from mdmf_ops.beam.storage import absolute
from mdmf_ops.schema import PARTITION
from mdmf_ops.text import told

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

MANIFEST_FOLDER = "_runs"
TEMPORARY_FOLDER = "_tmp"
WINDOW_FOLDER, DRIFT_FOLDER = "_windows", "_drift"
"""No reader looks into folders that start with `_`."""

DATA_FILE = rf"{PARTITION}=\d{{4}}-\d\d-\d\d/({_RUN_ID.pattern})-\d{{5,}}-of-\d{{5,}}\.parquet"
"""What the path of a data file in the output looks like; the first group is its run id."""

TEMPORARY_FILE = rf"{TEMPORARY_FOLDER}/{_RUN_ID.pattern}/mdmf-[0-9a-f]+\.tmp"
"""What the path of a file on its way to the output looks like."""

WRITTEN_FILE = (
    rf"{DATA_FILE}|{DRIFT_FOLDER}/{PARTITION}=\d{{4}}-\d\d-\d\d/{_RUN_ID.pattern}\.parquet"
    rf"|(?:{MANIFEST_FOLDER}|{WINDOW_FOLDER})/{_RUN_ID.pattern}\.json"
    rf"|{TEMPORARY_FOLDER}/{_RUN_ID.pattern}/claim|{TEMPORARY_FILE}"
)
"""What the path of anything that runs write into the output looks like."""


def dataset_root(path: str) -> str:
    """The root folder of a dataset as the names of its files start: absolute or gs://, without a slash at its end.

    Raises:
        ValueError: another URI, one of file:// too, no bucket, or the root of the disk.
    """
    root = absolute(path).rstrip("/")
    if not re.match(r"/|gs://[^/]", root):
        kinds = "a local path, without file:// and not the root, or gs://BUCKET/..."
        raise ValueError(f"{told(path)}: the folder of a dataset is {kinds}")
    return root


@dataclass(frozen=True)
class Run:
    """A run and the names that follow from it: a retried bundle or a rerun finds the same ones.

    Attributes:
        output: root folder of the dataset, local or gs://; no trailing slash.
        run_id: letters, digits, dots, dashes and underscores.
        scan_date: the day the run started (UTC), YYYY-MM-DD: the partition of all its rows.
        started_at: ISO 8601, UTC.
        attempt: tells this start from another one under the same id; empty where no other can be.
    """

    output: str
    run_id: str
    scan_date: str
    started_at: str
    attempt: str = ""

    @classmethod
    def start(cls, output: str, run_id: str | None = None) -> "Run":
        """Starts a run now; without an id, under a new one.

        Raises:
            ValueError: an id unfit as a name, or an output that `dataset_root` refuses.
        """
        now = datetime.datetime.now(datetime.timezone.utc)
        run_id = run_id or f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id!r}: up to 100 letters, digits, '.', '_' and '-', a letter or digit first")
        day, moment = f"{now:%Y-%m-%d}", now.isoformat(timespec="seconds")
        return cls(dataset_root(output), run_id, day, moment, attempt=secrets.token_hex(8))

    @property
    def manifest_path(self) -> str:
        """Its presence says that the run is complete."""
        return f"{self.output}/{MANIFEST_FOLDER}/{self.run_id}.json"

    @property
    def temporary_folder(self) -> str:
        """For files on their way to a local dataset."""
        return f"{self.output}/{TEMPORARY_FOLDER}/{self.run_id}"

    @property
    def claim_path(self) -> str:
        """While the run goes on, says which attempt may write."""
        return f"{self.temporary_folder}/claim"

    def data_file(self, shard: int, num_shards: int) -> str:
        """Name of a shard's file, relative to `output`."""
        return f"{PARTITION}={self.scan_date}/{self.run_id}-{shard:05d}-of-{num_shards:05d}.parquet"

    def owns(self, path: str) -> bool:
        """Whether a path in the dataset is a data file of this run, not of one whose id starts alike."""
        match = re.fullmatch(DATA_FILE, path.removeprefix(f"{self.output}/"))
        return match is not None and match[1] == self.run_id
