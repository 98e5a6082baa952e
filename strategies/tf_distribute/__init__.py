"""Strategies of ``tf.distribute``."""
