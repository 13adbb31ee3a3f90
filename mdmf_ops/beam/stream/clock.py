"""`SteadyClock`: the local runner's timers when the wall clock is set."""

import time

from apache_beam.runners.direct.clock import RealClock


class SteadyClock(RealClock):
    """The wall clock, which goes on at its pace when it is set back: a timer waits for as long as it was set for, and
    late rows for no hour more.

    The watermark is none of its business: that is compared with publication times, and so is the wall clock's.
    """

    def __init__(self):
        self._last_s = 0.0, 0.0  # what it said, and when; one value, since several threads ask

    def time(self) -> float:
        said_s, at_s = self._last_s
        now_s = time.monotonic()
        said_s = max(time.time(), said_s + now_s - at_s)
        self._last_s = said_s, now_s
        return said_s
