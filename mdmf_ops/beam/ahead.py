"""Requests ahead of the element in hand: an object store answers one slowly and many as fast."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from apache_beam.transforms.window import WindowedValue

T = TypeVar("T")

AT_ONCE = 8
"""Requests of each thread that runs bundles: an answer takes tens of milliseconds, most of them on the way."""


class Ahead(Generic[T]):
    """Calls on threads of a DoFn's own, some of a bundle side by side; it is named before the DoFn among its bases.

    What comes of each call leaves in order, in the window that its element came in.
    """

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, "mdmf-ahead")

    def teardown(self) -> None:
        self._pool.shutdown()

    def start_bundle(self) -> None:
        self._begun: deque[tuple[Future[T], object, object]] = deque()

    def begin(self, call: Callable[..., T], *arguments: object, timestamp, window) -> Iterator[WindowedValue]:
        """Begins a call, and gives what came of the oldest one once as many as may run are under way."""
        self._begun.append((self._pool.submit(call, *arguments), timestamp, window))
        if len(self._begun) == AT_ONCE:
            yield from self._take()

    @abstractmethod
    def end(self, result: T) -> Iterator[object]:
        """What a call's result comes to, on the bundle's thread: to which metrics belong."""

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._begun:
            yield from self._take()

    def _take(self) -> Iterator[WindowedValue]:
        future, timestamp, window = self._begun.popleft()
        for output in self.end(future.result()):
            yield WindowedValue(output, timestamp, (window,))
