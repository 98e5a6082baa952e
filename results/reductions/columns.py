"""The columns of the tables of ``stratbench allreduce``, for HDF5, CSV, pandas and docs/results.md."""

from __future__ import annotations

from ..column import Column
from ..schema import ENVIRONMENT, markdown

VECTOR = "vector"
"""In the column ``tensors``, instead of a model's name: one tensor of one dimension."""

_RUN_ID = Column("run_id", "text", "", "Which transport, in which command")
_TENSORS = (
    Column(
        "tensors", "text", "", "What is reduced together: vector, or the model whose trained weights have its shapes"
    ),
    Column("size_bytes", "int", "bytes", "S, of what one replica reduces"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "transports": (
        _RUN_ID,
        Column("status", "text", "", "ok, skipped, failed or timeout"),
        Column("reason", "text", "", "Why the status isn't ok"),
        Column("started_at", "text", "ISO 8601, UTC", "When its processes were launched"),
        Column("transport", "text", "", "The strategy with its options; memory: each process copies, nothing is sent"),
        Column("strategy", "text", "", "Name of the strategy"),
        Column("options", "text", "JSON", "Its options"),
        Column("replicas", "int", "", "N, that reduce together: processes, or devices of one process"),
        Column("cores_per_replica", "int", "cores", "CPU cores given to each replica"),
        Column("alpha_seconds", "float", "s", "α of t = α + β·S, fitted to the medians of vectors by relative error"),
        Column("beta_seconds_per_byte", "float", "s/byte", "β of the same fit"),
        Column("fit_error", "float", "1", "Mean distance of the fit from these medians, as a share of each"),
        Column("disturbed", "text", "", "What disturbed it, as in the runs table"),
        *ENVIRONMENT,
    ),
    "reductions": (
        _RUN_ID,
        *_TENSORS,
        Column("tensor_count", "int", "tensors", "How many tensors these bytes are in"),
        Column("iterations", "int", "", "Reductions that were timed, after 2 others"),
        Column("seconds_median", "float", "s", "Of a reduction, which takes as long as it takes the slowest process"),
        Column("seconds_min", "float", "s", "The shortest one"),
        Column("seconds_p95", "float", "s", "95th percentile"),
        Column("reductions_per_second", "float", "1/s", "1 / median"),
        Column("algbw_bytes_per_second", "float", "bytes/s", "S / median, as in nccl-tests"),
        Column("busbw_bytes_per_second", "float", "bytes/s", "2(N-1)/N of it, as in nccl-tests; memory: missing"),
        Column("moved_bytes_expected", "float", "bytes", "All processes send and receive in one, by the algorithm"),
        Column("moved_bytes_measured", "float", "bytes", "The same, counted by the kernel on TCP connections"),
        Column("rounds_expected", "float", "messages", "Of which each waits for the one before; missing for libraries"),
        Column("rounds_measured", "float", "messages", "The most that a process has sent, received or exchanged"),
    ),
    "samples": (
        _RUN_ID,
        *_TENSORS,
        Column("rank", "int", "", "Which process"),
        Column("iteration", "int", "", "Counted from 0"),
        Column("seconds", "float", "s", "Of this reduction in this process"),
    ),
}


if __name__ == "__main__":
    print(markdown(TABLES), end="")
