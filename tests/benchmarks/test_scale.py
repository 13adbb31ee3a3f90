"""The simulation conserves images, and is the closed form where there is one."""

import importlib.util
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks/scale.py")
scale = importlib.util.module_from_spec(spec)
sys.modules["scale"] = scale  # dataclasses look their module up
spec.loader.exec_module(scale)


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_done_or_lost(seed):
    faults = scale.Faults(slow_workers=0.3, slowdown=4, bundle_fails=0.4, hot_share=0.1)
    outcome = scale.simulate(12_345, 7, 50, 0.05, faults, seed)
    assert outcome.done + outcome.lost == 12_345
    assert 0 < outcome.busy_share <= 1


@pytest.mark.parametrize(("images", "workers", "bundles"), [(1000, 4, 20), (999, 3, 27), (100, 10, 10)])
def test_without_faults_it_takes_rounds_of_equal_bundles(images, workers, bundles):
    outcome = scale.simulate(images, workers, bundles, 0.5, scale.Faults())
    assert outcome.duration_s == pytest.approx(bundles / workers * images / bundles * 0.5)
    assert (outcome.tries, outcome.lost, outcome.busy_share) == (bundles, 0, pytest.approx(1))


def test_tries_are_those_of_a_geometric_series_cut_at_the_fourth():
    p, bundles = 0.3, 20_000
    outcome = scale.simulate(bundles, 100, bundles, 0.1, scale.Faults(bundle_fails=p))
    assert outcome.tries == pytest.approx(bundles * (1 + p + p**2 + p**3), rel=0.02)
    assert outcome.lost == pytest.approx(bundles * p**4, rel=0.2)


def test_the_hot_bundle_alone_takes_at_least_its_own_time():
    outcome = scale.simulate(100_000, 100, 1000, 0.1, scale.Faults(hot_share=0.1))
    assert outcome.duration_s == pytest.approx(10_000 * 0.1)


def test_one_slow_worker_costs_less_with_smaller_bundles():
    faults = scale.Faults(slow_workers=0.05, slowdown=5)
    few, many = (scale.simulate(100_000, 50, bundles, 0.1, faults, seed=1).duration_s for bundles in (100, 5000))
    assert many < 0.7 * few


def test_the_models_cores_are_work_over_time():
    c = scale.Constants()
    out = scale.model(1e6, 20, c)
    assert out["scoring_h"] * 20 * c.busy * 3600 == pytest.approx(1e6 * c.score_s)
    assert out["files"] == 10 and out["file_gb"] == pytest.approx(0.13)
