"""``python -m stratbench.harness.cli``."""

from .commands import main

main()
