"""What the training verbs share: where the labelled images are, and where work is kept."""

import argparse
from pathlib import Path

from mdmf_ops.cli import UsageError
from mdmf_ops.training.data import LabelledImage, read_folders, read_index, sources

DEFAULT_WORK = Path("work")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name labelled images, and where work is kept."""
    group = parser.add_argument_group("labelled images: an index, or folders whose subfolders are the sources")
    group.add_argument(
        "--index", type=Path, nargs="+", default=[], metavar="CSV", help="columns path, label (real or fake), source"
    )
    group.add_argument(
        "--pairs", type=Path, metavar="CSV", help="columns path, real_path: generated twins of real images"
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
    """The labelled images that the arguments name; a source is of one class."""
    if not arguments.index and not arguments.real and not arguments.fake:
        raise UsageError("no images: give --index CSV, or --real DIR and --fake DIR")
    try:
        indexed = [image for index in arguments.index for image in read_index(index, arguments.pairs)]
        images = indexed + read_folders(arguments.real, arguments.fake)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if both := sorted(set(sources(images, generated=False)) & set(sources(images, generated=True))):
        raise UsageError(f"{', '.join(both)}: real and generated images under one source name; rename one")
    return images
