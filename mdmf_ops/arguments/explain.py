"""Say why one image got its verdict: in words, as a map, and as its score among those of real images.

    mdmf explain photo.jpg                              scored now
    mdmf explain gs://bucket/photo.jpg --save why       pictures into the folder why
    mdmf explain shard.tar#photo.jpg                    an image in a tar shard
    mdmf explain --output scores --row_id 5a2d0e...     a row of an output: the map that it holds, and the image again
    mdmf explain photo.jpg --json

Of a row the very bytes that it is of are read again, the same generation with the same SHA-256, and scored by the
detector that the row names; where the image is gone or was changed, or the score, p-value, verdict or map is another
one, it says so. An id is of bytes and detector: --run_id tells the rows of several runs apart.
"""

import argparse
from pathlib import Path

from mdmf_ops.defaults import DEFAULT_ALPHA, DEVICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", nargs="?", metavar="IMAGE", help="local path or gs:// object; SHARD.tar#NAME of one in a shard"
    )
    parser.add_argument("--output", metavar="DIR", help="root folder of the dataset that holds the row, local or gs://")
    parser.add_argument("--row_id", metavar="ID", help="of the row; mdmf latest --json shows it")
    parser.add_argument("--run_id", help="only a row of this run (default: the newest whose image can still be read)")
    parser.add_argument(
        "--assets",
        metavar="DIR",
        help="folder of the detector, local or gs:// (default: the run's, else the embedded micro)",
    )
    parser.add_argument("--alpha", type=float, help=f"level of the verdict on an IMAGE (default: {DEFAULT_ALPHA})")
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="where the network runs")
    parser.add_argument(
        "--save",
        type=Path,
        default=Path("explained"),
        metavar="FOLDER",
        help="where pictures go (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON and nothing else")
