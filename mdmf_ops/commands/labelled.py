"""What the training verbs share: where the labelled images are, and where work is kept."""

import argparse
from collections import Counter
from pathlib import Path

from mdmf_ops.cli import UsageError
from mdmf_ops.training.data import LabelledImage, read_folders, read_index, read_pairs, sources

DEFAULT_WORK = Path("work")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name labelled images, and where work is kept."""
    group = parser.add_argument_group("labelled images: an index, or folders whose subfolders are the sources")
    group.add_argument(
        "--index", type=Path, nargs="+", default=[], metavar="CSV", help="columns path, label (real or fake), source"
    )
    group.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="columns path, real_path, both relative to the CSV: generated twins, of the index, and their real images",
    )
    group.add_argument("--real", type=Path, nargs="+", default=[], metavar="DIR", help="folders of real images")
    group.add_argument("--fake", type=Path, nargs="+", default=[], metavar="DIR", help="folders of generated images")
    parser.add_argument(
        "--work",
        type=Path,
        default=DEFAULT_WORK,
        metavar="DIR",
        help="computed features and checkpoints; an interrupted command goes on from them (default: %(default)s)",
    )


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
    if both := sorted(set(sources(images, generated=False)) & set(sources(images, generated=True))):
        raise UsageError(f"{', '.join(both)}: real and generated images under one source name; rename one")
    return images
