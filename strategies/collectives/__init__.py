"""Strategies whose processes exchange tensors by Horovod's collectives. Files with ``_`` are shared."""
