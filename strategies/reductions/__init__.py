"""All-reduce, written out in messages from one process to another."""
