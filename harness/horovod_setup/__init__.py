"""Builds Horovod for the TensorFlow that is installed."""
