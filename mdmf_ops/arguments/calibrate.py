"""Give a trained detector its p-values, from real images of sources that were left out of training.

    mdmf calibrate my_detector --index images.csv
        the same images as for mdmf train: trains again without each real source in turn, and scores what was left out

    mdmf calibrate my_detector --real photographs --held_out
        quicker, and the way for a detector that others trained: the detector itself scores the real images that it was
        not trained on: all of other sources, and what its training held out. A source is known by its name: images of
        the training under another one count as never seen. Its p-values promise nothing for a source unlike those.

Each image is scored after a chain of crop, resize and re-encode as on the web; with --held_out also as it is, which is
how a scan will find it, and the more generated of the two counts. The scores are kept in the detector's folder, by size
where there are enough. A p-value is the share of real images that lie as high, in the source where that share is the
largest: so alpha holds for photographs that look generated, and not just for the average of them. Give 50 images of a
source or more, 100 for an alpha of .01: smaller sources count as one together. Of a large archive a thousand drawn at
random are enough, as an index or a folder of links: all are held in memory, with micro at up to 1.3 MB an image.
"""

import argparse
from pathlib import Path

from mdmf_ops.arguments.shared import add_image_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", type=Path, metavar="DIR", help="folder of the detector, from mdmf train")
    add_image_arguments(parser)
    parser.add_argument(
        "--held_out", action="store_true", help="score what it was not trained on by the detector itself: no training"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
