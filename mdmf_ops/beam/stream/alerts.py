"""What a stream publishes: alerts for chosen verdicts, and messages that failed, with the reason.

The alert is described in docs/alert.schema.json. A service may deliver either twice; `row_id` tells.
"""

import datetime
import glob
import json
from collections.abc import Collection
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage

from mdmf_ops.beam.run import Run
from mdmf_ops.beam.stream.live import Scored
from mdmf_ops.beam.stream.windows import Windows

ALERT_VERSION = "1.1"
"""First number: a reader must change. Second: a field was added."""

_FROM_ROW = (
    *("row_id", "image_uri", "image_generation", "image_sha256", "verdict", "p_value", "alpha", "mmd2"),
    *("calibration_id", "detector_id", "declared_source", "declared_by", "c2pa_signature", "schema_version"),
)

# Of the service: more than this is refused, and a refused message would stop the stream. The attributes of a message
# that came are each within these limits.
_MAX_MESSAGE_BYTES = 10_000_000
_MAX_ATTRIBUTES, _MAX_VALUE_BYTES = 100, 1024

_TAKEN = frozenset(("self", "topic", "data", "ordering_key", "retry", "timeout"))
"""Beam publishes attributes as keywords of Google's client, beside those that it takes itself."""


class Alerts(beam.PTransform):
    """`Scored` to alert messages, for the verdicts chosen.

    Args:
        verdicts: of `mdmf_ops.detector.Verdict`, as text.
    """

    def __init__(self, stream: Run, windows: Windows, verdicts: Collection[str]):
        super().__init__()
        self._stream, self._windows, self._verdicts = stream, windows, frozenset(verdicts)

    def display_data(self) -> dict[str, Any]:
        return {"stream_id": self._stream.run_id, "verdicts": ",".join(sorted(self._verdicts))}

    def expand(self, scored: beam.PCollection[Scored]) -> beam.PCollection[PubsubMessage]:
        return (
            scored
            | "ChosenVerdicts" >> beam.Filter(_is_chosen, self._verdicts)
            | "Alert" >> beam.Map(make_alert, self._stream, self._windows).with_output_types(PubsubMessage)
        )


def _is_chosen(scored: Scored, verdicts: frozenset[str]) -> bool:
    return scored.row["verdict"] in verdicts


def make_alert(scored: Scored, stream: Run, windows: Windows) -> PubsubMessage:
    """The alert for a row: JSON, with what a subscription may filter on as attributes."""
    ref, row = scored
    published = datetime.datetime.fromtimestamp(ref.message.published_us / 1e6, datetime.timezone.utc)
    alert = {
        "alert_version": ALERT_VERSION,
        **{name: row[name] for name in _FROM_ROW},
        "published_at": published.isoformat(timespec="milliseconds"),
        "scored_at": row["scanned_at"].isoformat(timespec="milliseconds"),
        "attributes": dict(ref.attributes),
        "rows_at": f"{glob.escape(stream.output)}/{windows.rows_of(stream, ref.message.published_us, row['row_id'])}*",
    }
    attributes = {
        "mdmf_alert_version": ALERT_VERSION,
        "mdmf_verdict": row["verdict"],
        "mdmf_row_id": row["row_id"],
        "mdmf_detector_id": row["detector_id"],
    }
    return PubsubMessage(json.dumps(alert, allow_nan=False).encode(), attributes)


class Errors(beam.PTransform):
    """`Scored` to the messages whose image failed, as they were published, with the reason as attributes."""

    def expand(self, scored: beam.PCollection[Scored]) -> beam.PCollection[PubsubMessage]:
        return scored | "Failed" >> beam.FlatMap(_errors).with_output_types(PubsubMessage)


def _errors(scored: Scored) -> list[PubsubMessage]:
    return [make_error(scored)] if scored.row["status"] == "failed" else []


def make_error(scored: Scored) -> PubsubMessage:
    """The original data and attributes, and the reason.

    Attributes of the service's own (`goog...`) cannot be published again, nor those that Beam cannot publish. Where
    ours would make the message larger than the service takes, the original's last attributes give way, then its data.
    `mdmf_cut` says what of the original is not there.
    """
    message, row = scored.ref.message, scored.row
    reason = {
        "mdmf_error_code": row["error_code"],
        "mdmf_error_message": _cut(row["error_message"]),
        "mdmf_row_id": row["row_id"],
        "mdmf_message_id": _cut(message.message_id),
    }
    left_out = {*reason, "mdmf_cut", *_TAKEN}
    kept = sorted(key for key in message.attributes if key not in left_out and not key.startswith("goog"))
    room = _MAX_ATTRIBUTES - len(reason) - 1
    attributes = {key: message.attributes[key] for key in kept[:room]} | reason
    cut = ["attributes"] * (len(kept) > room or not _TAKEN.isdisjoint(message.attributes))
    data = message.data
    size_bytes = len(data) + sum(len(key.encode()) + len(value.encode()) + 20 for key, value in attributes.items())
    if size_bytes > _MAX_MESSAGE_BYTES - 1024:
        data, cut = b"", [*cut, "data"]
    if cut:
        attributes["mdmf_cut"] = ",".join(cut)
    return PubsubMessage(data, attributes)


def _cut(text: str) -> str:
    return text.encode()[:_MAX_VALUE_BYTES].decode(errors="ignore")
