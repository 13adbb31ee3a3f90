"""What is asked of a store is asked side by side, and what comes of it leaves in order, in its own window."""

import threading
from collections.abc import Iterator
from operator import floordiv

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from mdmf_ops.beam import MatchImages, sources
from mdmf_ops.beam.ahead import Ahead
from mdmf_ops.beam.lists import complete


class _DivideDoFn(Ahead[int], beam.DoFn):
    def process(self, number: int, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam) -> Iterator:
        yield from self.begin(floordiv, 1000, number, timestamp=timestamp, window=window)

    def end(self, result: int) -> Iterator[int]:
        yield result


def _beside_window(number: int, window=beam.DoFn.WindowParam) -> tuple[int, int]:
    return int(window.start), number


def test_what_is_begun_ahead_stays_in_its_window(run_pipeline):
    with run_pipeline() as p:
        quotients = (
            p
            | beam.Create(range(1, 50))
            | beam.Map(lambda number: TimestampedValue(number, number)).with_output_types(int)
            | beam.WindowInto(FixedWindows(10))
            | beam.ParDo(_DivideDoFn())
            | beam.Map(_beside_window)
        )
        assert_that(quotients, equal_to([(number // 10 * 10, 1000 // number) for number in range(1, 50)]))


def test_a_call_that_raises_fails_the_run(run_pipeline):
    with pytest.raises(Exception, match="integer division"), run_pipeline() as p:
        _ = p | beam.Create(range(3)) | beam.ParDo(_DivideDoFn())


def test_entries_of_a_list_are_asked_about_side_by_side(tmp_path, monkeypatch, run_pipeline):
    names = [f"{number}.jpg" for number in range(8)]
    for size, name in enumerate(names):
        (tmp_path / name).write_bytes(b"." * size)
    (tmp_path / "list.txt").write_text("\n".join(names))
    all_of_them = threading.Barrier(len(names), timeout=60)

    def complete_together(ref):
        all_of_them.wait()  # broken if one of them is asked about only once another has been answered
        return complete(ref)

    monkeypatch.setattr(sources, "complete", complete_together)
    with run_pipeline() as p:
        refs = p | MatchImages([], lists=[str(tmp_path / "list.txt")], complete_lists=True)
        sizes = refs | beam.Map(lambda ref: (ref.uri, ref.size_bytes))
        assert_that(sizes, equal_to([(str(tmp_path / name), size) for size, name in enumerate(names)]))
