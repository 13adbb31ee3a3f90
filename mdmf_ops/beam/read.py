"""From where an image lies to its bytes: `FetchImages`, `ReadImages`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin
from apache_beam.transforms.window import WindowedValue

from mdmf_ops.beam.ahead import Ahead
from mdmf_ops.beam.fetch import fetch_image
from mdmf_ops.beam.image import NAMESPACE, Image, ImageRef
from mdmf_ops.beam.sources import MatchImages
from mdmf_ops.images.decode import Limits


class _FetchDoFn(Ahead[tuple[Image, float]], beam.DoFn):
    def __init__(self, limits: Limits):
        self._limits = limits
        self._bytes_read = Metrics.counter(NAMESPACE, "bytes_read")
        self._image_bytes = Metrics.distribution(NAMESPACE, "image_bytes")
        self._read_us = Metrics.distribution(NAMESPACE, "read_us")

    def process(
        self, ref: ImageRef, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam
    ) -> Iterator[WindowedValue]:
        yield from self.begin(_timed_fetch, ref, self._limits, timestamp=timestamp, window=window)

    def end(self, result: tuple[Image, float]) -> Iterator[Image]:
        image, duration_s = result
        if image.content is not None:
            self._bytes_read.inc(len(image.content))
            self._image_bytes.update(len(image.content))
            self._read_us.update(int(duration_s * 1e6))
        yield image


def _timed_fetch(ref: ImageRef, limits: Limits) -> tuple[Image, float]:
    started_s = time.perf_counter()
    return fetch_image(ref, limits), time.perf_counter() - started_s


class FetchImages(beam.PTransform):
    """Reads the bytes of each `ImageRef`; an image that cannot be read goes on with its error."""

    def __init__(self, limits: Limits | None = None):
        super().__init__()
        self._limits = limits or Limits()

    def display_data(self) -> dict[str, Any]:
        return asdict(self._limits)

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[Image]:
        return refs | "Fetch" >> beam.ParDo(_FetchDoFn(self._limits)).with_output_types(Image)


class ReadImages(beam.PTransform):
    """`MatchImages` and `FetchImages` in one: sources to `Image`."""

    def __init__(self, sources: Sequence[str], limits: Limits | None = None):
        super().__init__()
        self._sources, self._limits = sources, limits

    def display_data(self) -> dict[str, Any]:
        return {"sources": " ".join(self._sources)}

    def expand(self, pbegin: PBegin) -> beam.PCollection[Image]:
        return pbegin | MatchImages(self._sources) | FetchImages(self._limits)
