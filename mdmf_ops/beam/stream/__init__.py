"""Transforms of the live stream: messages in, alerts and errors out, one row for each image in Parquet by window."""
