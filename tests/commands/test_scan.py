"""How a scan runs on this machine."""

import argparse

import pytest
import torch

from mdmf_ops.commands import scan


def options(workers, device):
    parser = argparse.ArgumentParser()
    scan.add_arguments(parser)
    arguments = ["photos", "--output", "out", "--workers", str(workers), "--device", device]
    return scan._options(parser.parse_args(arguments), []).get_all_options()


@pytest.mark.parametrize(
    ("workers", "device", "gpu", "mode"),
    [
        (1, "cpu", False, "in_memory"),
        (2, "cpu", False, "multi_threading"),
        (4, "auto", False, "multi_threading"),
        (5, "auto", False, "multi_processing"),
        (2, "cpu", True, "multi_threading"),
        (2, "auto", True, "multi_processing"),
        (2, "cuda", True, "multi_processing"),
    ],
)
def test_few_workers_on_cpus_are_threads_that_load_one_detector(monkeypatch, workers, device, gpu, mode):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = options(workers, device)
    assert (found["direct_num_workers"], found["direct_running_mode"]) == (workers, mode)
