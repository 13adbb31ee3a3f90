"""`micro` by ONNX Runtime, as CPUs run it, against `forward` by torch: two implementations of one network."""

import copy
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from conftest import photo

from mdmf_ops.detector.micro import MicroBackbone

SIZES = [(64, 64), (64, 96), (160, 64), (96, 512), (320, 416), (512, 512)]
"""(height, width) of a tile, px: even and odd numbers of patches, the smallest and the largest."""

MENDED_BY = "where `forward` was changed, run recipes/micro/graph.py"


@pytest.fixture(scope="module")
def backbone():
    """Random weights: the promise is not that of trained ones."""
    torch.manual_seed(0)
    return MicroBackbone().eval()


def tiles(count, height, width):
    return np.stack([photo(i, height, width).transpose(2, 0, 1) for i in range(count)])


def by_torch(backbone, batch):
    with torch.inference_mode():
        return backbone(torch.from_numpy(batch)).flatten(0, 2)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_both_see_the_same(backbone, height, width):
    batch = tiles(2, height, width)
    torch.testing.assert_close(backbone.seen(batch), by_torch(backbone, batch), atol=1e-4, rtol=1e-4, msg=MENDED_BY)


def test_weights_are_those_of_the_backbone(backbone):
    batch = tiles(1, 96, 96)
    torch.manual_seed(1)
    other = MicroBackbone().eval()
    assert (other.seen(batch) - backbone.seen(batch)).abs().max() > 0.01
    torch.testing.assert_close(other.seen(batch), by_torch(other, batch), atol=1e-4, rtol=1e-4)


def test_bits_depend_neither_on_the_other_tiles_nor_on_the_number_of_threads(backbone):
    batch = tiles(3, 128, 96)
    together = backbone.seen(batch)
    assert torch.equal(together, torch.cat([backbone.seen(tile[None]) for tile in batch]))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            # A copy makes a session of its own, on so many threads.
            assert torch.equal(copy.deepcopy(backbone).seen(batch), together)
    finally:
        torch.set_num_threads(threads)


def test_threads_share_a_backbone(backbone):
    batches = [tiles(1, 64 + 32 * i, 96) for i in range(4)]
    expected = [backbone.seen(batch) for batch in batches]
    found = [[] for _ in batches]

    def score(i):
        found[i] = [backbone.seen(batches[i]) for _ in range(20)]

    threads = [threading.Thread(target=score, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(seen, expected[i]) for i in range(4) for seen in found[i])


def test_a_child_process_does_not_wait_for_its_parents_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    backbone, batch = MicroBackbone().eval(), tiles(1, 128, 128)
    expected = backbone.seen(batch)
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child():
        torch.set_num_threads(1)
        sender.send(backbone.seen(batch).numpy())

    # Several: whether the parent's threads are awaited depends on what they do as the child is made.
    for _ in range(5):
        process = context.Process(target=child)
        process.start()
        try:
            assert receiver.poll(60), "the child hangs"
            np.testing.assert_array_equal(receiver.recv(), expected)
            process.join(60)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()


def test_autocast_is_left_to_torch(backbone):
    batch = tiles(1, 96, 96)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rounded = backbone.seen(batch)
    difference = (rounded.float() - backbone.seen(batch)).abs().max()
    assert difference > 1e-4, "nothing was rounded"
