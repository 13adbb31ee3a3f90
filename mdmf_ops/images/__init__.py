"""A stranger's bytes to tiles of pixels, without torch: within limits, whole or refused, in a process apart."""
