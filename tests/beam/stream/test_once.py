"""One row for an image under a detector, however often and in whatever order its messages are delivered."""

import pickle

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing import test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

from mdmf_ops.beam import ImageRef
from mdmf_ops.beam.image import Message
from mdmf_ops.beam.stream.once import _TABLES, DUPLICATES, Once, _InProcessDoFn, _InStateDoFn, _Memory

START_S = 1767312000


def ref(message_id: str, second: float, uri: str = "gs://b/a", generation: int | None = 1) -> TimestampedValue:
    message = Message(b"", {}, message_id, int((START_S + second) * 1e6))
    return TimestampedValue(ImageRef(uri, generation, message=message), START_S + second)


def from_error_topic(message_id: str, second: float, was: str) -> TimestampedValue:
    found = ref(message_id, second)
    message = found.value.message._replace(attributes={"mdmf_message_id": was, "mdmf_error_code": "unavailable"})
    return TimestampedValue(found.value._replace(message=message), found.timestamp)


def only_one() -> str:
    return "detector-1"


def run(bundles, passed, duplicates, horizon_s=600, detector_id=only_one):
    """Runs bundles of refs through both ways to remember."""
    for in_process in (False, True):
        story = test_stream.TestStream(coder=PickleCoder())
        for bundle in bundles:
            story.add_elements(bundle)
        story.advance_watermark_to_infinity()
        with beam.Pipeline(options=PipelineOptions([], streaming=True, runner="BundleBasedDirectRunner")) as p:
            once = p | story | Once(detector_id, horizon_s, in_process=in_process)
            ids = once.refs | "Ids" >> beam.Map(lambda found: found.message.message_id)
            assert_that(ids, equal_to(passed), label="passed")
            assert_that(once[DUPLICATES], equal_to(duplicates), label="duplicates")


def test_duplicates_in_one_bundle_and_across_bundles_give_one_ref():
    run([[ref("1", 0), ref("2", 1)], [ref("3", 2)], [ref("4", 599)]], ["1"], ["2", "3", "4"])


def test_another_generation_uri_or_none_at_all_is_another_image():
    found = [ref("1", 0), ref("2", 0, generation=2), ref("3", 0, uri="gs://b/b"), ref("4", 0, generation=None)]
    run([found], ["1", "2", "3", "4"], [])


def test_a_redelivery_is_dropped_and_acknowledged_or_it_would_come_for_ever():
    run([[ref("1", 0)], [ref("1", 0)], [ref("2", 1)]], ["1"], ["1", "2"])


def test_a_bundle_that_failed_is_no_duplicate_of_itself(tmp_path):
    asked = tmp_path / "asked"  # a file, since DoFns are copied
    asked.touch()

    def fails_now_and_then() -> str:
        times = asked.stat().st_size
        asked.write_bytes(bytes(times + 1))
        if times % 4 == 1:  # for the second message, and not when the bundle is tried again
            raise OSError("the pointer cannot be read")
        return "detector-1"

    run([[ref("1", 0), ref("2", 0, uri="gs://b/b")]], ["1", "2"], [], detector_id=fails_now_and_then)
    assert asked.stat().st_size == 8


def test_what_is_published_again_from_the_error_topic_gets_a_row_and_its_copies_do_not():
    again = [from_error_topic("2", 60, was="1"), from_error_topic("2", 60, was="1")]  # the second is a redelivery
    copy = from_error_topic("3", 61, was="1")
    twice = from_error_topic("4", 120, was="2")
    run([[ref("1", 0)], again, [copy], [twice], [ref("5", 121)]], ["1", "2", "4"], ["2", "3", "5"])


def test_the_horizon_is_measured_between_publications_not_deliveries():
    run([[ref("new", 700)], [ref("old", 101)], [ref("older", 99)]], ["new", "older"], ["old"], horizon_s=600)
    run([[ref("1", 0)], [ref("2", 601)], [ref("3", 1201)]], ["1", "2"], ["3"], horizon_s=600)
    run([[ref("new", 700)], [ref("held up", 99)], [ref("newer", 701)]], ["new", "held up"], ["newer"], horizon_s=600)


def test_a_new_detector_scores_an_image_anew():
    detectors = iter(["detector-1", "detector-1", "detector-2", "detector-2"])
    memory, seen = _Memory(lambda: next(detectors), 600), {}
    passed = [[type(found) for found in memory.pass_first(ref(str(i), i).value, seen)] for i in range(4)]
    assert passed == [[ImageRef], [TaggedOutput], [ImageRef], [TaggedOutput]]


def test_what_is_remembered_is_bounded_by_the_horizon():
    state, in_state = _State(), _InStateDoFn(_Memory(only_one, 60))
    in_process = _InProcessDoFn(_Memory(only_one, 60))
    for second in range(1000):
        found = ref(str(second), second, uri=f"gs://b/{second}").value
        list(in_state.process((0, found), state))
        in_process.start_bundle()
        list(in_process.process(found))
        in_process.finish_bundle()
        assert 1 <= len(state.read()) <= 61 + 64 and len(_TABLES[in_process._name]) == len(state.read())


class _State:
    """A runner's state of one key, which is no object that lives on."""

    def __init__(self):
        self._written = pickle.dumps(None)

    def read(self):
        return pickle.loads(self._written)  # noqa: S301  # our own

    def write(self, value) -> None:
        self._written = pickle.dumps(value)
