"""The row: one for each image and run, scored or failed. Names, types, units and nullability, in one place.

The schema refuses: a missing field, an extra one, a null or a NaN where none may be is an error, never a
silent null. Readers see the descriptions below as field metadata.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "1.2"
"""First number: a reader must change. Second: a nullable column was added."""

PARTITION = "scan_date"
"""Hive partition column: in the folder's name (`scan_date=YYYY-MM-DD/`), not in the files."""

VERDICTS = ("likely_ai", "uncertain", "likely_real")
"""Closed list of `mdmf_ops.detector.Verdict`, for those who only read rows."""

_TEXT = pa.string()
_WORD = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("us", tz="UTC")
_TILE = pa.struct(
    [pa.field(name, pa.int32(), nullable=False) for name in ("top_px", "left_px", "height_px", "width_px")]
)


def _field(name: str, type_: pa.DataType, description: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"description": description})


def _always(name: str, type_: pa.DataType, description: str) -> pa.Field:
    return _field(name, type_, description, nullable=False)


SCHEMA = pa.schema(
    [
        _always("row_id", _TEXT, "hash of image content (of uri and generation, where there is none) and detector_id"),
        _always("run_id", _TEXT, "which scan"),
        _always("scanned_at", _TIME, "when the image was scored or found to fail"),
        _field("decode_us", pa.int32(), "from bytes to pixels, in microseconds; null where not scored"),
        _field("score_us", pa.int32(), "from pixels to score, in microseconds; null where not scored"),
        _always("image_uri", _TEXT, "what was read: absolute path or URI"),
        _field("image_generation", pa.int64(), "generation of the object that was read; null for local files"),
        _field("image_bytes", pa.int64(), "encoded size in bytes, as listed where it was not read; null where unknown"),
        _field("image_modified_at", _TIME, "when the file or the object's generation was written; null where unknown"),
        _field("image_sha256", _TEXT, "SHA-256 of the encoded bytes in hex; null where they were not read"),
        _field("image_format", _WORD, "JPEG, PNG, ...: by content; null where it could not be decoded"),
        _field("width_px", pa.int32(), "of the upright image, in pixels"),
        _field("height_px", pa.int32(), "of the upright image, in pixels"),
        _field("jpeg_quality", pa.int16(), "1-100, estimated from the quantisation table; null where not JPEG-like"),
        _always("status", _WORD, "scored or failed"),
        _field("error_code", _WORD, "why it failed, of a closed list; null where scored"),
        _field("error_message", _TEXT, "the failure in words; null where scored"),
        _field("mmd2", pa.float32(), "unbiased squared MMD to the bank of real patches; may be negative"),
        _field("p_value", pa.float32(), "conformal p-value in (0, 1] against held-out real images"),
        _field("verdict", _WORD, "likely_ai, uncertain or likely_real: p_value against alpha; evidence, no proof"),
        _always("alpha", pa.float32(), "level of the verdict"),
        _field("grid_rows", pa.int16(), "rows of patches in each tile"),
        _field("grid_cols", pa.int16(), "columns of patches in each tile"),
        _field("patch_px", pa.int16(), "side of a patch in pixels"),
        _field("tiles", pa.list_(_TILE), "where the tiles lie in the upright image"),
        _field("patch_evidence", pa.list_(pa.float32()), "tile by tile, in raster order; its mean is mmd2"),
        # What the file says of itself. Anyone can write it: never part of the verdict.
        _field("declared_source", _WORD, "IPTC digital source type that the file names; null where it names none"),
        _field("declared_by", _WORD, "where it does: c2pa, text (a PNG's chunk), xmp or exif"),
        _field("declared_software", _TEXT, "what made or last wrote the file, as the file says; up to 120 characters"),
        _field("c2pa_signature", _WORD, "trusted, valid, invalid or unchecked; null where there is no C2PA manifest"),
        _field(
            "declared_us",
            pa.int32(),
            "reading that, in microseconds; null where the bytes were not read, or ended their decoder",
        ),
        _always("detector_id", _TEXT, "name and digest of the detector's assets"),
        _always("backbone", _WORD, "patch extractor of the detector"),
        _always("signature_sha256", _TEXT, "of the signature's weights"),
        _always("bank_sha256", _TEXT, "of the bank of real patches"),
        _field("calibration_id", _WORD, "which held-out real images gave the p-value; null where not scored"),
        _field("device", _WORD, "where the network ran: cpu, or cuda and the GPU's name; null where not scored"),
        _field("precision", _WORD, "of the backbone's arithmetic: float32 or bfloat16; null where not scored"),
        _always("schema_version", _WORD, "of this schema"),
        _always("attributes", pa.map_(_TEXT, _TEXT), "the caller's own keys, passed through"),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)

_FLOATS = [field.name for field in SCHEMA if pa.types.is_floating(field.type)]


class SchemaError(ValueError):
    """A row does not fit the schema."""


def to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of exactly `SCHEMA`.

    Args:
        rows: mappings that each have every field of the schema and no other.

    Raises:
        SchemaError: a field is missing or extra, a value has the wrong type, is null where it may not be, or
            is NaN. Names the row's image and the field.
    """
    rows = list(rows)
    expected = set(SCHEMA.names)
    for row in rows:
        if row.keys() != expected:
            missing, extra = sorted(expected - row.keys()), sorted(row.keys() - expected)
            raise SchemaError(f"{row.get('image_uri')}: missing fields {missing}, extra fields {extra}")
        for field in SCHEMA:
            if row[field.name] is None and not field.nullable:
                raise SchemaError(f"{row['image_uri']}: {field.name} is null")
        for name in _FLOATS:
            if row[name] is not None and row[name] != row[name]:
                raise SchemaError(f"{row['image_uri']}: {name} is NaN: unknown is null")
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        uris = ", ".join(repr(row["image_uri"]) for row in rows[:3])
        raise SchemaError(f"rows of {uris}...: {error}") from error
