"""Sandblaster: a coordinator commands parameter shards, and workers take portions of a batch as they fall idle."""
