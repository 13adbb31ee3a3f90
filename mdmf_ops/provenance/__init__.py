"""What a file says of its own origin: read from its metadata alone, kept apart from every score, and easily forged.

Example::

    from mdmf_ops.provenance import read_declaration

    print(read_declaration(open("photo.jpg", "rb").read()))
"""

from mdmf_ops.provenance.declaration import Declaration, Signature, read_declaration
from mdmf_ops.provenance.signature import check_anchors

__all__ = ["Declaration", "Signature", "check_anchors", "read_declaration"]
