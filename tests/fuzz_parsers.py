"""Coverage-guided fuzzing of what parses strangers' bytes in Python: headers and messages. `make fuzz-parsers`.

    pip install atheris          not a dependency: it has no wheels for every Python and machine
    python tests/fuzz_parsers.py -max_total_time=300

Arguments are libFuzzer's. A parser may refuse an input by ImageError, and by nothing else.
"""

import contextlib
import sys

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("atheris is not here: pip install atheris (Linux x86-64, Python 3.11 to 3.13)")

with atheris.instrument_imports(
    include=["mdmf_ops.images.pieces", "mdmf_ops.images.metadata", "mdmf_ops.beam.stream.messages"]
):
    from mdmf_ops.beam.stream import messages
    from mdmf_ops.detector import ImageError, Limits
    from mdmf_ops.images import metadata, truncation

from corpus.make import cases

from mdmf_ops.beam.image import Message

LIMITS = Limits()
NOTIFICATION = {"eventType": "OBJECT_FINALIZE", "bucketId": "b", "objectId": "o", "payloadFormat": "JSON_API_V1"}


def parse(data: bytes) -> None:
    """Gives one input to each parser."""
    with contextlib.suppress(ImageError):
        metadata.check_metadata(data, LIMITS.max_metadata_bytes, LIMITS.max_scans)
    truncation.is_cut(data)
    for attributes in ({}, NOTIFICATION, NOTIFICATION | {"objectId": data[:20].decode("latin-1")}):
        ref = messages.parse_message(Message(data, attributes, "id", 0), "/srv/images")
        if ref is not None and ref.error is None and not ref.inline:
            assert ref.uri.startswith(("gs://", "/srv/images")), ref.uri


def main() -> None:
    for _, content, _ in cases():
        parse(content)
    atheris.Setup(sys.argv, parse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
