"""What a message names: three forms, and everything that is none of them."""

import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import Message
from mdmf_ops.beam.storage import local_path
from mdmf_ops.beam.stream.alerts import make_error
from mdmf_ops.beam.stream.live import Scored
from mdmf_ops.beam.stream.messages import MAX_JSON_BYTES, parse_message
from mdmf_ops.detector import ErrorCode, Limits

NOTIFICATION = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "uploads",
    "objectId": "in/a b.jpg",
    "objectGeneration": "1767312000000001",
    "payloadFormat": "NONE",
    "notificationConfig": "projects/_/buckets/uploads/notificationConfigs/1",
}
PAYLOAD = {
    "kind": "storage#object",
    "bucket": "uploads",
    "name": "in/a b.jpg",
    "generation": "1767312000000001",
    "size": "2177",
    "crc32c": "AAAAAA==",
    "timeCreated": "2026-01-02T00:00:00.000001Z",
    "metadata": {"item": "4711"},
}


def message(data: bytes | dict = b"", **attributes: str) -> Message:
    return Message(json.dumps(data).encode() if isinstance(data, dict) else data, attributes, "id", 0)


def error_of(found: Message, local_root: str | None = None) -> ErrorCode:
    ref = parse_message(found, local_root)
    assert ref.message is found and ref.uri.startswith("message:")
    return ref.error.code


def test_a_notification_without_payload_names_the_generation():
    found = message(**NOTIFICATION)
    ref = parse_message(found)
    assert (ref.uri, ref.generation, ref.size_bytes) == ("gs://uploads/in/a b.jpg", 1767312000000001, None)
    assert (ref.attributes, ref.error, ref.message) == ({}, None, found)


def test_a_notification_with_payload_also_tells_size_time_checksum_and_the_objects_own_metadata():
    ref = parse_message(message(PAYLOAD, **NOTIFICATION | {"payloadFormat": "JSON_API_V1"}))
    assert (ref.uri, ref.generation) == ("gs://uploads/in/a b.jpg", 1767312000000001)
    assert (ref.size_bytes, ref.crc32c, ref.attributes) == (2177, "AAAAAA==", {"item": "4711"})
    assert ref.modified_at.isoformat() == "2026-01-02T00:00:00.000001+00:00"


def test_what_a_notifications_configuration_adds_goes_through_above_what_the_uploader_chose():
    added = {"lane": "hot", "mdmf_error_code": "not_found"}  # the latter as published again from the error topic
    every = {"eventTime": "2026-01-02T00:00:00Z", "overwroteGeneration": "1", "overwrittenByGeneration": "3"}
    ref = parse_message(message(b"", **NOTIFICATION, **every, **added))
    assert (ref.error, ref.attributes) == (None, {"lane": "hot"})
    told = PAYLOAD | {"metadata": {"lane": "cold", "album": "7"}}
    ref = parse_message(message(told, **NOTIFICATION | {"payloadFormat": "JSON_API_V1"}, **added))
    assert ref.attributes == {"lane": "hot", "album": "7"}


@pytest.mark.parametrize(
    "metadata", [{f"{i:04d}": "" for i in range(2048)}, {"k" * 8191: ""}, {"k": "v" * 8191}], ids=len
)
def test_no_metadata_that_cloud_storage_takes_keeps_an_object_from_being_scored(metadata):
    ref = parse_message(message(PAYLOAD | {"metadata": metadata}, **NOTIFICATION | {"payloadFormat": "JSON_API_V1"}))
    assert (ref.error, ref.uri, ref.attributes) == (None, "gs://uploads/in/a b.jpg", metadata)


@pytest.mark.parametrize(
    "change", [{"bucket": "other"}, {"name": "in/b.jpg"}, {"generation": "2"}, {"metadata": {"a": 1}}]
)
def test_a_payload_that_contradicts_its_attributes_is_refused(change):
    found = message(PAYLOAD | change, **NOTIFICATION | {"payloadFormat": "JSON_API_V1"})
    assert error_of(found) == ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("change", [{"eventType": "OBJECT_DELETE"}, {"eventType": "x"}])
def test_a_notification_of_no_new_image_is_none(change):
    assert parse_message(message(**NOTIFICATION | change)) is None


def test_of_objects_whose_name_ends_in_a_slash_only_those_known_to_be_empty_are_left_out():
    attributes = NOTIFICATION | {"objectId": "in/hidden.jpg/"}
    uri = "gs://uploads/in/hidden.jpg/"
    payload = PAYLOAD | {"name": "in/hidden.jpg/"}
    with_payload = attributes | {"payloadFormat": "JSON_API_V1"}
    assert parse_message(message(payload | {"size": "0"}, **with_payload)) is None
    found = parse_message(message(payload, **with_payload))
    assert (found.uri, found.size_bytes, found.error) == (uri, 2177, None)
    assert parse_message(message(**attributes)).uri == uri  # nothing tells its size
    empty = parse_message(message(PAYLOAD | {"size": "0"}, **NOTIFICATION | {"payloadFormat": "JSON_API_V1"}))
    assert empty.size_bytes == 0


def test_a_reference_names_an_object_and_passes_the_callers_keys_through():
    payload = {"uri": "gs://uploads/a.jpg", "generation": 17, "attributes": {"item": "7", "both": "json"}}
    ref = parse_message(message(payload, both="message", sent="by"))
    assert (ref.uri, ref.generation) == ("gs://uploads/a.jpg", 17)
    assert ref.attributes == {"item": "7", "both": "json", "sent": "by"}
    assert parse_message(message({"uri": "gs://uploads/a.jpg", "generation": "17"})).generation == 17
    assert parse_message(message({"uri": "gs://uploads/a.jpg"})).generation is None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{", ErrorCode.BAD_MESSAGE),
        (b'{"uri": "gs://uploads/a.jpg"} trailing', ErrorCode.BAD_MESSAGE),
        (b'{"uri": "\xff"}', ErrorCode.BAD_MESSAGE),
        (b"{" * 100_000, ErrorCode.BAD_MESSAGE),
        (b'{"a":' * 50_000, ErrorCode.BAD_MESSAGE),
        (b'{"uri": "' + b"a" * MAX_JSON_BYTES + b'"}', ErrorCode.TOO_MANY_BYTES),
        ({}, ErrorCode.BAD_MESSAGE),
        ({"uri": 5}, ErrorCode.BAD_MESSAGE),
        ({"uri": ""}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "url": "x"}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "generation": True}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "generation": -1}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "generation": 2**63}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "generation": 1.5}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "attributes": {"a": 1}}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "attributes": ["a"]}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "attributes": {"a": "\ud800"}}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "attributes": {"a": "x" * 1025}}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/a.jpg", "attributes": {str(i): "" for i in range(101)}}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/\ud800.jpg"}, ErrorCode.BAD_MESSAGE),
        ({"uri": "gs://uploads/"}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads"}, ErrorCode.BAD_URI),
        ({"uri": "gs:///a.jpg"}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads/.."}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads/k.tar#a.jpg"}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads/k.TAR#a.jpg", "generation": 1}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads/a\nb"}, ErrorCode.BAD_URI),
        ({"uri": "gs://uploads/" + "é" * 513}, ErrorCode.BAD_URI),
        ({"uri": "http://169.254.169.254/computeMetadata"}, ErrorCode.BAD_URI),
        ({"uri": "s3://uploads/a.jpg"}, ErrorCode.BAD_URI),
        ({"uri": "/etc/passwd"}, ErrorCode.BAD_URI),
        ({"uri": "file:///etc/passwd"}, ErrorCode.BAD_URI),
    ],
)
def test_what_is_no_reference_is_an_error_and_never_an_exception(payload, code):
    assert error_of(message(payload)) == code


def test_local_files_are_read_under_the_root_alone(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "rootless"
    root.mkdir()
    outside.mkdir()
    (root / "a.jpg").write_bytes(b"inside")
    (outside / "b.jpg").write_bytes(b"outside")
    (root / "link.jpg").symlink_to(outside / "b.jpg")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    good = [str(root / "a.jpg"), "a.jpg", f"file://{root}/a.jpg", "x/../a.jpg"]
    for uri in good:
        ref = parse_message(message({"uri": uri}), str(root))
        assert ref.uri == str(root / "a.jpg")
        assert fetch_image(ref, Limits()).content == b"inside"
    bad = [str(outside / "b.jpg"), "link.jpg", "folder/b.jpg", "../rootless/b.jpg", "file:///etc/passwd", "a\0b"]
    for uri in [*bad, f"file://{root}/%2e%2e/rootless/b.jpg", "x" * 300 + "/" + "y" * 4000]:
        assert error_of(message({"uri": uri}), str(root)) == ErrorCode.BAD_URI, uri
    for name in ("a.jpg?x", "a.jpg#b", "a.tar#b"):  # as URIs, they would be read as a.jpg and a.tar
        (root / name).write_bytes(b"another")
        ref = parse_message(message({"uri": name}), str(root))
        assert fetch_image(ref, Limits()).content == b"another"
        for start in (f"file://{root}/", f"file://host{root}/"):
            assert error_of(message({"uri": start + name}), str(root)) == ErrorCode.BAD_URI
    looped = parse_message(message({"uri": "loop"}), str(root))
    assert looped.error or fetch_image(looped, Limits()).error
    assert error_of(message({"uri": "a.jpg", "generation": 1}), str(root)) == ErrorCode.BAD_MESSAGE


def test_a_file_that_becomes_a_link_before_it_is_read_is_not_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "in", outside):
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(folder.name.encode())
    found = parse_message(message({"uri": "in/a.jpg"}), str(root))
    assert fetch_image(found, Limits()).content == b"in"
    (root / "in/a.jpg").unlink()
    (root / "in/a.jpg").symlink_to(outside / "a.jpg")
    assert fetch_image(found, Limits()).error.code == ErrorCode.CHANGED
    (root / "in").rename(root / "was")
    (root / "in").symlink_to(outside)
    assert fetch_image(found, Limits()).error.code == ErrorCode.CHANGED


SCHEMES = ["http://127.0.0.1/", "ftp://hunter2@x/a?sig=hunter2", "FILE:///a", "s3://b/a", "file:///a\0b", "gs:/b/a"]
HIDDEN = ["gs://bucket/..", "gs://up%2floads/a", "gs://uploads@x.org/a", "gs://u\x1b/a", "gs://uploads/a\nb"]


@pytest.mark.parametrize("uri", [*SCHEMES, *HIDDEN, "gs://\u202e/" + "a" * 200_000])
def test_what_is_said_of_a_name_that_is_not_opened_is_short_one_line_and_without_secrets(tmp_path, uri):
    for root in (None, str(tmp_path)):
        ref = parse_message(message({"uri": uri}), root)
        if ref.error is None:  # a relative path, of which there is no file
            ref = ref._replace(error=fetch_image(ref, Limits()).error)
        assert ref.error.code in (ErrorCode.BAD_URI, ErrorCode.NOT_FOUND)
        assert len(ref.error.message) <= 300 and ref.error.message.isprintable() and ref.uri.isprintable()
        assert "hunter2" not in ref.error.message


def test_a_local_name_with_control_characters_is_read_and_its_row_does_not_hold_them(tmp_path):
    (tmp_path / "\x1b[2J.jpg").write_bytes(b"content")
    ref = parse_message(message({"uri": "\x1b[2J.jpg"}), str(tmp_path))
    assert ref.uri == f"file://{tmp_path}/%1B%5B2J.jpg"
    assert fetch_image(ref, Limits()).content == b"content"


def test_a_folder_or_pipe_under_the_root_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for uri in ("", "pipe"):
        ref = parse_message(message({"uri": uri or str(tmp_path)}), str(tmp_path))
        assert fetch_image(ref, Limits()).error.code == ErrorCode.UNREADABLE


def test_bytes_are_the_image_and_one_item_is_one_uri():
    found = message(b"\xff\xd8 bytes", item="7")
    ref = parse_message(found)
    assert (ref.inline, ref.attributes, ref.error) == (True, {"item": "7"}, None)
    assert fetch_image(ref, Limits()).content == found.data
    assert fetch_image(ref, Limits(max_bytes=3)).error.code == ErrorCode.TOO_MANY_BYTES
    assert parse_message(message(b"\xff\xd8 bytes", item="7")._replace(message_id="other")).uri == ref.uri
    assert parse_message(message(b"\xff\xd8 bytes", item="8")).uri != ref.uri
    assert parse_message(message(b"\xff\xd9 bytes", item="7")).uri != ref.uri


@pytest.mark.parametrize("more", [{}, {"topic": "x"}])
def test_what_is_published_again_from_the_error_topic_is_the_image_it_was(more):
    ref = parse_message(message(b"\xff\xd8 bytes", item="7"))
    row = {"error_code": "timeout", "error_message": "decoding took too long", "row_id": "r"}
    sent = make_error(Scored(ref._replace(message=message(b"\xff\xd8 bytes", item="7", **more)), row))
    again = parse_message(Message(sent.data, sent.attributes, "again", 1))
    assert len(sent.attributes) == 5 + len(more)  # mdmf_cut says what is cut off
    assert again.uri == ref.uri
    assert again.message.attributes["mdmf_message_id"] == "id"
    assert again.attributes == {"item": "7"}  # the row of an image that is scored now does not say that it failed
    sent = make_error(Scored(parse_message(message(b"{}", item="7")), row))
    assert parse_message(Message(sent.data, sent.attributes, "again", 1)).attributes == {"item": "7"}
    named = message({"uri": "gs://uploads/a.jpg", "attributes": {"lane": "hot"}}, item="7")
    sent = make_error(Scored(parse_message(named), row))
    again = parse_message(Message(sent.data, sent.attributes, "again", 1))
    assert again.attributes == {"item": "7", "lane": "hot"}
    assert parse_message(message(b"\xff\xd8 bytes", item="7", mdmf_of_mine="x")).uri != ref.uri


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["uri", "generation", "attributes", "bucket", "name", "metadata", "size", "timeCreated"])


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=60) | st.dictionaries(KEYS, JSON, max_size=5).map(lambda d: json.dumps(d).encode()),
    attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    notification=st.dictionaries(st.sampled_from(sorted(NOTIFICATION)), st.text(max_size=30), max_size=5) | st.none(),
)
def test_no_message_raises(data, attributes, notification):
    if notification is not None:
        attributes = attributes | NOTIFICATION | {"payloadFormat": "JSON_API_V1"} | notification
    ref = parse_message(Message(data, attributes, "id", 0))
    if ref is not None:
        assert ref.error or ref.inline or ref.uri.startswith("gs://")
        ref.uri.encode()
        assert all(isinstance(value, str) for value in ref.attributes.values())


_STARTS = st.sampled_from(["", "/", "file://", "file:///", "file://host/", "//"])
_PARTS = st.sampled_from(["..", ".", "in", "out", "link", "loop", "", "%2e%2e", "~", "a.jpg", "\x1b", "a\0", "\\"])


@given(_STARTS, st.lists(_PARTS, max_size=6), st.booleans())
@example(start="", parts=["loop", "..", "out"], from_root=False)
def test_no_path_leads_out_of_the_local_root(tree, start, parts, from_root):
    root = str(tree / "in")
    uri = start + (f"{root}/" if from_root else "") + "/".join(parts)
    ref = parse_message(message({"uri": uri}), root)
    image = fetch_image(ref, Limits())
    assert image.content in (None, b"inside")
    assert image.content is not None or image.error is not None
    if ref.error is None:
        path = os.fsdecode(local_path(ref.uri))
        assert path == root or path.startswith(f"{root}/")
        assert os.path.realpath(path) == path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder `in` that is the root, `out` beside it, and links that lead out."""
    tree = tmp_path_factory.mktemp("tree").resolve()
    for folder, content in (("in", b"inside"), ("out", b"outside"), ("in/in", b"inside")):
        (tree / folder).mkdir()
        (tree / folder / "a.jpg").write_bytes(content)
    (tree / "in/link").symlink_to(tree / "out")
    (tree / "in/out").symlink_to("../out")
    (tree / "in/loop").symlink_to("loop")
    return tree
