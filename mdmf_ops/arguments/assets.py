"""Fetch, list and verify what detectors are made of.

    mdmf assets list
    mdmf assets fetch dinov2-large --revision COMMIT --output extractors/dinov2-large
    mdmf assets fetch someone/their-dinov2 --revision COMMIT --output extractors/theirs
    mdmf assets fetch gs://bucket/folder --output extractors/ours
    mdmf assets verify extractors/dinov2-large

A checkpoint is fetched once, at set-up time, and never while images are scored. What is written is a folder with an
extractor alone: `mdmf train --backbone_from DIR` makes a detector of it. Only safetensors are read, never a pickle.
"""

import argparse
from pathlib import Path

from mdmf_ops.defaults import BACKBONES

HUB_IDS = {name: f"facebook/{name}" for name in BACKBONES if name.startswith("dinov2-")}
"""Where the published extractors lie on the model hub."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    taught = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    listing = actions.add_parser("list", help="the detectors here, and the extractors that can be fetched", **taught)
    fetch = actions.add_parser("fetch", help="a DINOv2 checkpoint, as an extractor to train on", **taught)
    fetch.add_argument(
        "source", metavar="NAME|HUB_ID|DIR|URI", help=f"one of {', '.join(HUB_IDS)}; a hub id; a folder; gs://..."
    )
    fetch.add_argument("--revision", metavar="COMMIT", help="of a hub id: 40 hex digits; a branch or a tag may move")
    fetch.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the extractor")
    fetch.add_argument(
        "--tile_px", type=int, default=224, metavar="PX", help="longest side of a tile, a multiple of 14 (default: 224)"
    )
    verify = actions.add_parser("verify", help="check every file and tensor of detectors and extractors", **taught)
    verify.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of a detector or an extractor")
    for action in (listing, fetch, verify):
        action.add_argument("--json", action="store_true", help="print JSON and nothing else")
