"""What is taken where nothing is said, and what may be said instead: plain values, which a command shows in its help
without Beam or torch."""

DEFAULT_ALPHA = 0.01

DEVICES = ("auto", "cpu", "cuda")
"""Where a network may run; the first takes CUDA where there is one."""

PRECISIONS = ("float32", "bfloat16")
"""The first is the definition; the other stands in for it where `keeps_scores`."""

BACKBONES = ("micro", "dinov2", "dinov2-small", "dinov2-base", "dinov2-large", "dinov2-giant")
"""Names of extractors that a manifest may give; `dinov2` alone is one of another size than the published."""

CHECK_S = 10.0
"""How often a stream reads the pointer to its detector, in seconds."""

WINDOW_S = 300
"""Images of a stream that were published within so many seconds are in a file together."""

HORIZON_S = 600
"""A stream's messages for one image that were published within so many seconds give one row."""

BATCH_WAIT_S = 0.1
"""How long an image of a stream waits for others to make up its batch, in seconds."""
