"""stratbench: the same Keras model under every way of distributing it, measured and explained."""

__version__ = "0.1.0"
