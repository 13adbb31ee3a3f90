"""What the training verbs share: how they read labelled images, and compute."""

import argparse
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import torch

import model_assets
from mdmf_ops.cli import UsageError
from mdmf_ops.training.data import LabelledImage, read_folders, read_index, read_pairs, sources

_ROWS = {"all", "mean"}
"""Of tables of an evaluation, beside those of the sources."""


def read_images(arguments: argparse.Namespace) -> list[LabelledImage]:
    """The labelled images that the arguments name, each once; a source is of one class."""
    if not arguments.index and not arguments.real and not arguments.fake:
        raise UsageError("no images: give --index CSV, or --real DIR and --fake DIR")
    if arguments.pairs and not arguments.index:
        raise UsageError("--pairs goes with --index: it is of images that an index names")
    try:
        twins = read_pairs(arguments.pairs) if arguments.pairs else {}
        indexed = [image for index in arguments.index for image in read_index(index, twins)]
        if arguments.pairs and not any(image.twin_of for image in indexed):
            raise ValueError(f"{arguments.pairs}: no path in it, relative to it, is of an image of --index")
        images = indexed + read_folders(arguments.real, arguments.fake)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    counts = Counter(image.path.resolve() for image in images)
    if twice := next((path for path, count in counts.items() if count > 1), None):
        raise UsageError(f"{twice}: given more than once; an image counts once, under one label and source")
    # A name that is no text in UTF-8 has bytes of it as surrogates.
    if odd := sorted(image.source for image in images if re.search("[\ud800-\udfff]", image.source)):
        raise UsageError(f"{odd[0]!a}: the name of a source is not UTF-8, and no report can have it; rename it")
    if both := sorted(set(sources(images, generated=False)) & set(sources(images, generated=True))):
        raise UsageError(f"{', '.join(both)}: real and generated images under one source name; rename one")
    labels: dict[bytes, LabelledImage] = {}
    for image in images:
        other = labels.setdefault(image.sha256, image)
        if other.generated is not image.generated:
            raise UsageError(f"{image.path}: the very bytes of {other.path}, which has the other label")
    if taken := sorted(_ROWS & {image.source for image in images}):
        raise UsageError(f"{', '.join(taken)}: no name of a source, but of a row of an evaluation; rename it")
    return images


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Has a verb compute on one thread, and makes a `UsageError` of what is raised for what it was given."""
    torch.set_num_threads(1)  # the matrices are small, and two threads that contend for a core are far slower than one
    try:
        yield
    except BrokenProcessPool as error:
        raise UsageError("a worker process was killed: was there memory enough? the same command goes on") from error
    except (OSError, ValueError, model_assets.AssetError) as error:
        raise UsageError(str(error)) from error
