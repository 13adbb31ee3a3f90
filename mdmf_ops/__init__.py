"""MDMF Ops: finds AI-generated images at scale. The walk: `beam/` reads, `detector/` scores, `beam/` writes."""

__version__ = "0.1.0"
