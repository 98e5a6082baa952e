"""What others are compared with: one process, and Keras's own fit."""
