"""The clock of the local runner's timers: set ahead or back, a timer never waits longer than it was set for."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdmf_ops.beam.stream.clock import SteadyClock


class _Clocks:
    """A wall clock that is set and a steady one, in place of the `time` module's."""

    def __init__(self, monkeypatch):
        self.wall_s, self.steady_s = 1_800_000_000.0, 50.0
        monkeypatch.setattr(time, "time", lambda: self.wall_s)
        monkeypatch.setattr(time, "monotonic", lambda: self.steady_s)

    def go_on(self, passed_s: float, set_s: float) -> None:
        self.steady_s += passed_s
        self.wall_s += passed_s + set_s


def test_a_clock_that_is_set_ahead_and_back_goes_on_at_its_pace(monkeypatch):
    clocks, clock = _Clocks(monkeypatch), SteadyClock()
    assert clock.time() == 1_800_000_000
    clocks.go_on(1, 3600)
    assert clock.time() == 1_800_003_601
    clocks.go_on(1, -7200)
    assert clock.time() == 1_800_003_602
    clocks.go_on(5, 0)
    assert clock.time() == 1_800_003_607


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(-10_000, 10_000))))
def test_it_never_goes_slower_than_time_nor_lags_the_wall_clock(steps):
    with pytest.MonkeyPatch.context() as monkeypatch:
        clocks, clock = _Clocks(monkeypatch), SteadyClock()
        said_s = clock.time()
        for passed_s, set_s in steps:
            clocks.go_on(passed_s, set_s)
            before_s, said_s = said_s, clock.time()
            assert said_s >= before_s + passed_s and said_s >= clocks.wall_s
