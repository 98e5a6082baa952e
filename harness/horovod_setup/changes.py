"""What is changed in Horovod's source before it is compiled, and why.

- **XLA.** Horovod's last release, 0.28.1, doesn't compile with TensorFlow ≥ 2.16: its optional XLA operations include
  headers that TensorFlow's wheel no longer has. Without that one source file it compiles, and nothing here needs it.
- **Gloo yields.** The thread that serves a process's connections asks again at once, for as long as another thread
  holds the connection's lock. Where both share a core, the holder can't go on until the kernel takes the core from the
  one that asks, milliseconds later. Here, the one that asks gives its core to others first.
- **Horovod wakes.** Its background thread looks for tensors once in each cycle, and sleeps in between. A short cycle
  keeps a core from computing, and a long one lets tensors wait. Here, a tensor that is added wakes the thread, and a
  cycle is the longest time that it sleeps. While tensors wait for other processes, it looks every 0.1 ms. With MPI it
  sleeps as before: there, a process that waits for another one in a cycle keeps its core.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...errors import StratbenchError

MARKS = ("glooyield", "wakes")
"""In the version of a Horovod that was changed so."""


class Change(NamedTuple):
    """Text that is in a file once, and what it becomes."""

    file: str
    old: str
    new: str


CHANGES = (
    Change(
        "horovod/tensorflow/CMakeLists.txt",
        'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n',
        "",
    ),
    Change(
        "third_party/gloo/gloo/transport/tcp/pair.cc",
        '#include "gloo/transport/tcp/pair.h"\n',
        '#include "gloo/transport/tcp/pair.h"\n#include <thread>\n',
    ),
    Change(
        "third_party/gloo/gloo/transport/tcp/pair.cc",
        "std::try_to_lock);\n  if (!lock) {\n    return;\n",
        "std::try_to_lock);\n  if (!lock) {\n    std::this_thread::yield();\n    return;\n",
    ),
    Change(
        "horovod/common/operations.cc",
        "    std::this_thread::sleep_for(sleep_duration);\n",
        """\
    if (state.control_operation == LibType::GLOO) {
      state.process_set_table.Get(0).tensor_queue.WaitForTensor(sleep_duration);
    } else {
      std::this_thread::sleep_for(sleep_duration);
    }
""",
    ),
    Change(
        "horovod/common/tensor_queue.h",
        "#include <iostream>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n",
    ),
    Change(
        "horovod/common/tensor_queue.h",
        "  void RemoveJoinTensor();\n",
        """\
  void RemoveJoinTensor();

  // Wait until a tensor was added, at most so long.
  void WaitForTensor(std::chrono::steady_clock::duration longest);
""",
    ),
    Change(
        "horovod/common/tensor_queue.h",
        "  mutable std::mutex mutex_;\n",
        """\
  mutable std::mutex mutex_;

  // Whether tensors were added since the last wait.
  bool added_ = false;
  std::condition_variable was_added_;
""",
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        "  message_queue_.push(std::move(message));\n  return Status::OK();\n",
        """\
  message_queue_.push(std::move(message));
  added_ = true;
  was_added_.notify_one();
  return Status::OK();
""",
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        "    message_queue_.push(std::move(messages[i]));\n  }\n",
        "    message_queue_.push(std::move(messages[i]));\n  }\n  added_ = true;\n  was_added_.notify_one();\n",
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        "// Remove JoinOp tensor from the table and execute the callback\n",
        """\
void TensorQueue::WaitForTensor(std::chrono::steady_clock::duration longest) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!tensor_table_.empty()) {
    std::chrono::steady_clock::duration pending = std::chrono::microseconds(100);
    longest = std::min(longest, pending);
  }
  was_added_.wait_for(lock, longest, [this] { return added_; });
  added_ = false;
}

// Remove JoinOp tensor from the table and execute the callback
""",
    ),
    Change("horovod/common/tensor_queue.cc", "#include <assert.h>\n", "#include <algorithm>\n#include <assert.h>\n"),
)


def change(tree: Path) -> None:
    """Make all changes in an unpacked source tree; StratbenchError if it is not the one released."""
    for file, old, new in CHANGES:
        path = tree / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise StratbenchError(
                f"{path.name} of Horovod must have {old.strip().splitlines()[0]!r} in one place. "
                f"Received: {text.count(old)} such places; the source is not the one released"
            )
        path.write_text(text.replace(old, new), "utf-8")
