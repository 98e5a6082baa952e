"""Parameter servers: TensorFlow servers that hold the weights, and workers. Files with ``_`` are shared."""
