"""Rows to their windows on the local runner, at a cost to which windows that have closed add nothing.

Beam's own keeps what a trigger noted of each window as long as the stream runs, and copies all of it for each bundle,
so that one that fails can be tried again from where it was. After some days of windows that took longer than scoring.
Here a bundle copies what is open. Of a window that has closed a few numbers are left, in a table that bundles share and
only look into: with a late row its window's are copied out, and its panes are counted on from there. When no row of a
window can come any more, those go too.

And late rows do not hold the watermark back, as on a service. Beam's own let all windows wait for them, and for ever if
the first row of a window came late while others waited: none would close any more.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from apache_beam.runners.direct.transform_evaluator import _StreamingGroupAlsoByWindowEvaluator
from apache_beam.transforms.trigger import InMemoryUnmergedState
from apache_beam.transforms.window import BoundedWindow, WindowedValue

_Noted = dict[str, list[Any]]
"""What a trigger and the grouping noted of a window, by the name of the note."""

_HOLD = "watermark"
_WAITING = ("elements", _HOLD)
"""Beam's names: rows that no pane has taken, and how far a window holds the watermark back."""

_ON_TIME, _EARLY = "triggeris_late", "triggerearly"
"""Beam's names of what `AfterWatermark` notes: that its pane on time was fired; and, of no use after that, a number for
each row."""


def _copied(noted: _Noted) -> _Noted:
    return defaultdict(list, {name: list(values) for name, values in noted.items()})


class _OpenWindows(dict[BoundedWindow, _Noted]):
    """A window that has closed is copied in when it is asked for."""

    def __init__(self, closed: dict[BoundedWindow, _Noted]):
        super().__init__()
        self._closed = closed

    def __missing__(self, window: BoundedWindow) -> _Noted:
        self[window] = noted = _copied(self._closed.get(window, {}))
        return noted


class _KeyState(InMemoryUnmergedState):
    """What is noted of one key's windows; none of them merge.

    Attributes:
        closed: of the windows that nothing waits in; shared by all copies.
    """

    def __init__(self, closed: dict[BoundedWindow, _Noted] | None = None):
        super().__init__()
        self.closed = {} if closed is None else closed
        self.state = _OpenWindows(self.closed)

    def copy(self) -> "_KeyState":
        """A copy for a bundle to write into, which takes this one's place when the bundle is committed."""
        self._close()  # not before: what is copied is committed, and nothing takes it back
        copy = _KeyState(self.closed)
        copy.timers.update((window, dict(timers)) for window, timers in self.timers.items())
        copy.state.update((window, _copied(noted)) for window, noted in self.state.items())
        return copy

    def _close(self) -> None:
        for window, noted in list(self.state.items()):
            if window not in self.timers and not any(noted.get(name) for name in _WAITING):
                done = _EARLY if noted.get(_ON_TIME) else ()
                kept = {name: values for name, values in noted.items() if values and not name.startswith(done)}
                self.closed[window] = kept
                del self.state[window]

    def release(self) -> None:
        """Lets the watermark go, where the pane on time is out."""
        for noted in self.state.values():
            if noted.get(_ON_TIME):
                noted.pop(_HOLD, None)

    def forget(self, is_expired: Callable[[BoundedWindow], bool]) -> None:
        """Drops the closed windows for which no row is taken any more. They are asked in the order they closed in, up
        to the first for which one is."""
        while self.closed and is_expired(window := next(iter(self.closed))):
            del self.closed[window]


class GroupEvaluator(_StreamingGroupAlsoByWindowEvaluator):
    """Groups a bundle as Beam's own does, from a `_KeyState`."""

    def start_bundle(self) -> None:
        super().start_bundle()
        # Beam always looks for windows to merge, among all that there were.
        self.driver.is_merging = self._applied_ptransform.transform.windowing.windowfn.is_merging()

    def process_element(self, element: WindowedValue) -> None:
        if self.driver.is_merging:
            super().process_element(element)
            return
        key = element.value.encoded_key
        watermark = self._evaluation_context._watermark_manager.get_watermarks(self._applied_ptransform)
        now, lateness = watermark.input_watermark, self.driver.allowed_lateness
        committed = self._step_context.existing_keyed_state.setdefault(key, _KeyState())
        committed.forget(lambda window: now > window.end + lateness)  # as the driver asks of a row
        super().process_element(element)
        state = self._step_context.get_keyed_state(key)
        state.release()
        self.keyed_holds[key] = state.get_earliest_hold()
