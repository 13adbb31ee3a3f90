"""Score images as they are uploaded: Pub/Sub messages in; alerts, errors and Parquet by window out.

    mdmf stream --subscription projects/P/subscriptions/uploads --output gs://bucket/scores \\
      --alert_topic projects/P/topics/alerts --error_topic projects/P/topics/errors

A message is a Cloud Storage notification (OBJECT_FINALIZE, either payload format), a JSON reference
  {"uri": "gs://bucket/name", "generation": 17, "attributes": {"item": "4711"}}
or the bytes of an image, with attributes of yours; they are passed through to the row and the alert.
A message that is none of these, or names no image that can be scored, is a failed row and goes to the error topic.

The rows of a window are in OUTPUT when it has closed, one run each in OUTPUT/_runs; OUTPUT/_windows says which
windows are complete, OUTPUT/_drift how their images were distributed. docs/stream.md tells more.

It runs until SIGINT or SIGTERM, which let it write what it has taken in. Killed, it loses nothing: what is not in
a file is delivered to the next stream. Flags that are not listed here go to Apache Beam, in the form --flag=value.
"""

import argparse

from mdmf_ops.arguments.shared import add_scoring_arguments, bounded
from mdmf_ops.defaults import BATCH_WAIT_S, CHECK_S, HORIZON_S, WINDOW_S
from mdmf_ops.detector import Verdict

TAKES_BEAM_FLAGS = True

_DURATION_S = bounded(float, 0, 1e9, "a number of seconds from 0 to 1e9")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stream_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON at the end, and nothing else")
    parser.add_argument("--verbose", action="store_true", help="show Beam's log, metrics, whole tracebacks")


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mdmf stream` and `python -m pipelines.stream` share."""
    parser.add_argument("--subscription", metavar="projects/P/subscriptions/S", help="where the messages come from")
    parser.add_argument(
        "--topic",
        metavar="projects/P/topics/T",
        help="read a topic through a subscription made for this run: what was published before is not read, and what"
        " is published while it does not run is lost; for trials",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="root folder of the Parquet dataset, local or gs://; scans may share it"
    )
    parser.add_argument(
        "--alert_topic", metavar="projects/P/topics/T", help="where alerts go (default: none are published)"
    )
    parser.add_argument(
        "--error_topic",
        metavar="projects/P/topics/T",
        help="where messages go whose image failed, as they came, with the reason (default: they are rows only)",
    )
    parser.add_argument(
        "--verdicts",
        type=_verdicts,
        default=Verdict.LIKELY_AI.value,
        metavar="V,...",
        help=f"alert on these, of {', '.join(v.value for v in Verdict)} (default: %(default)s)",
    )
    parser.add_argument(
        "--window_s",
        type=int,
        default=WINDOW_S,
        metavar="N",
        help="a Parquet file holds the images published within so many seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--num_shards",
        type=int,
        metavar="N",
        help="files of a window; one for each 300 images a second is enough (default: 1)",
    )
    parser.add_argument(
        "--assets",
        metavar="DIR|POINTER",
        help="folder of the detector, or a file whose one line names it: that file is read again while the stream runs"
        " (default: the embedded micro)",
    )
    parser.add_argument(
        "--pointer_s",
        type=_DURATION_S,
        default=CHECK_S,
        metavar="N",
        help="read the pointer again after so many seconds (default: %(default)s)",
    )
    add_scoring_arguments(parser)
    parser.add_argument(
        "--local_root",
        metavar="DIR",
        help="messages may name local files under this folder (default: gs:// objects only)",
    )
    parser.add_argument(
        "--horizon_s",
        type=_DURATION_S,
        default=HORIZON_S,
        metavar="N",
        help="messages for one image published within so many seconds give one row (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_wait_s",
        type=_DURATION_S,
        default=BATCH_WAIT_S,
        metavar="N",
        help="an image waits so long at most for others to make up a batch (default: %(default)s)",
    )


def _verdicts(text: str) -> str:
    """Checks a list of verdicts; kept as text, since options travel as JSON."""
    known = [verdict.value for verdict in Verdict]
    if unknown := [word for word in text.split(",") if word not in known]:
        raise argparse.ArgumentTypeError(f"{','.join(unknown)}: expected verdicts of {', '.join(known)}")
    return text
