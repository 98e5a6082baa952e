"""How the threads of TensorFlow's pools wait."""

import subprocess
import sys

import pytest

CODE = """
from stratbench.strategies._shared.threads import set_threads
set_threads(1, 1, exchanges={exchanges})
import tensorflow as tf
assert tf.add(1, 2) == 3
config = tf.__internal__.eager_context.get_config()
print(config.experimental.disable_thread_spinning, config.inter_op_parallelism_threads)
"""


@pytest.mark.parametrize(("exchanges", "expected"), [(True, "True 2"), (False, "False 1")])
def test_idle_threads_sleep_where_a_step_exchanges(exchanges: bool, expected: str) -> None:
    code = CODE.format(exchanges=exchanges)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
