"""``python -m stratbench.harness.worker RUN_FOLDER``: see `main`."""

from .main import train

train()
