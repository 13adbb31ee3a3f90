"""Runnable wirings of the transforms, one file each."""
