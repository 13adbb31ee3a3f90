"""What a process sets up that is one of several at work on images."""

import torch

from mdmf_ops.heap import keep_free_memory


def be_one_of_several() -> None:
    """One thread of torch, since two that contend for a core are 40 times slower; free memory is kept."""
    torch.set_num_threads(1)
    keep_free_memory()
