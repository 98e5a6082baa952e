"""The columns of all tables, in one place: HDF5, CSV, pandas and docs/results.md all follow it.

To add a column, add its line here and fill it in ``record``; in older files its values are missing. To add a
table, add it to ``TABLES`` and to ``Record``. Raise ``SCHEMA_VERSION`` only if an older reader would misread the
file: if a column is removed, or changes its meaning, its kind or its unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .column import Column, Columns

SCHEMA_VERSION = 1

STATUSES = ("ok", "skipped", "failed", "timeout")


def row(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """One row of ``table`` as plain Python values: every column, in order, with missing values filled in.

    Raises:
        ValueError: ``values`` has a name that is not a column of the table.
    """
    if unknown := values.keys() - {column.name for column in TABLES[table]}:
        raise ValueError(f"A row may hold only columns of {table!r}. Received: {sorted(unknown)}")
    return {
        column.name: (column.array([values[column.name]]) if column.name in values else column.missing(1))
        .tolist()
        .pop()
        for column in TABLES[table]
    }


def columns(table: str, rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Whole rows, as ``row`` makes them, turned into columns."""
    return {column.name: column.array([row[column.name] for row in rows]) for column in TABLES[table]}


def markdown(tables: Mapping[str, Sequence[Column]] | None = None) -> str:
    """These tables, by default all of a results file, as Markdown, as in docs/results.md."""
    lines = []
    for table, table_columns in (tables or TABLES).items():
        lines += [f"### {table}", "", "| column | kind | unit | |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.kind} | {c.unit} | {c.description} |" for c in table_columns]
        lines.append("")
    return "\n".join(lines)


def _quantiles() -> tuple[Column, ...]:
    words = {
        "median": "Median",
        "p05": "5th percentile",
        "p25": "25th percentile",
        "p75": "75th percentile",
        "p95": "95th percentile",
        "p99": "99th percentile",
        "min": "Smallest",
        "max": "Largest",
    }
    return tuple(
        Column(f"step_seconds_{name}", "float", "s", f"{word} over all tasks' measured steps together")
        for name, word in words.items()
    )


_RUN_ID = Column("run_id", "text", "", "Which run")

_TASK = (
    _RUN_ID,
    Column("role", "text", "", "Role of the task"),
    Column("task", "int", "", "Index of the task in its role"),
)

_STALENESS = Column("staleness", "int", "updates", "Others' updates applied since its worker fetched the weights")

_UPDATES = (
    Column("updates_applied", "float", "updates", "Updates of shared weights that were applied, if counted"),
    Column("updates_dropped", "float", "updates", "Updates that came too late and changed nothing"),
    Column("blocked_seconds", "float", "s", "Time that workers waited for others, summed over workers"),
)

_TRAFFIC = (
    Column("traffic_bytes_expected", "float", "bytes", "What all workers send and receive, by the algorithm"),
    Column("traffic_bytes_measured", "float", "bytes", "The same, counted by the kernel; missing if one worker's is"),
)

_BANDWIDTH = (
    Column(
        "algbw_bytes_per_second",
        "float",
        "bytes/s",
        "Bytes that a step all-reduces divided by its communicating seconds, as nccl-tests' algbw; what is hidden "
        "behind computing takes no time here",
    ),
    Column("busbw_bytes_per_second", "float", "bytes/s", "The same times 2(N-1)/N, as nccl-tests' busbw"),
)

_FAULTS = (
    Column("fault", "text", "", "What the injected faults did, and which tasks died by themselves"),
    Column("noticed_seconds", "float", "s", "From the first injected death until the launcher noticed it"),
    Column("lost_steps", "float", "steps", "Steps not done, or undone, in a run that continued after a death"),
    Column("lost_share", "float", "1", "Lost steps divided by all steps that the workers had to do"),
    Column("down_seconds", "float", "s", "From a death until the task that replaced the dead one was ready"),
)

_EQUAL_WORK = (
    Column("initial_weights", "text", "", "Digits of all weights before the first step; others if one bit differs"),
    Column("final_weights", "text", "", "The same after the last step"),
    Column("first_update", "float", "", "How much the first update changed the trained weights, in one number"),
    Column("data_order", "text", "", "Digits of which examples were in which step, over all replicas"),
    Column("train_examples", "float", "examples", "In the training set"),
    Column("validation_examples", "float", "examples", "In the validation set"),
    Column("test_examples", "float", "examples", "In the test set"),
    Column("examples_planned", "float", "examples", "That all replicas together were to read for training"),
    Column("examples_read", "float", "examples", "That they read in the epochs that each ended; fewer where one died"),
    Column("first_epoch_examples", "float", "examples", "The same in the first epoch"),
    Column("first_epoch_distinct", "float", "examples", "How many different ones these were"),
)
"""By which it can be checked that runs did the same work."""

_SPLIT = (
    Column("computing_seconds", "float", "s", "The part in which the task computed; missing if not known"),
    Column("communicating_seconds", "float", "s", "The part in which it could not, as tensors were on the way"),
    Column("waiting_seconds", "float", "s", "The part in which it waited for other workers, or parts of the model"),
)
"""Of a step, or of all measured ones."""

COMPILED_SCHEDULE = "compiled "
"""How ``lr_schedule`` begins where the rate follows a schedule in the model's own optimizer; its words follow."""

OWN_OPTIMIZERS = "own: "
"""How ``optimizer`` begins where the model's own ``train_step`` or the strategy brings its own; their words follow."""

_SPEC = (
    Column("strategy", "text", "", "Name of the strategy"),
    Column("replicas", "int", "replicas", "Copies of the model that compute gradients"),
    Column("model", "text", "", "The model, as the user gave it"),
    Column("model_digest", "text", "", "Digits of its source files, for a model of the user's; empty in older files"),
    Column("model_commit", "text", "", "Last commit of git that changed its source, + if it was changed since"),
    Column("dataset", "text", "", "The data set, as the user gave it"),
    Column("data_digest", "text", "", "Digits of its file, for a file of the user's; empty in older files"),
    Column("input", "text", "", "Type of the examples as stored, and the factor by which they are scaled"),
    Column("split", "text", "", "How the examples are divided into training, validation and test"),
    Column("sharding", "text", "", "How the training examples are distributed to the replicas"),
    Column("global_batch", "int", "examples", "Examples per step over all replicas"),
    Column("per_replica_batch", "int", "examples", "One replica's share of the global batch"),
    Column("last_batch", "text", "", "An epoch's incomplete batch: drop, keep, or empty (older files, drop)"),
    Column("epochs", "float", "epochs", "Epochs requested; missing if steps were requested"),
    Column("steps", "float", "steps", "Steps requested; missing if epochs were requested"),
    Column(
        "optimizer",
        "text",
        "",
        "The optimizer and its settings, as --optimizer; own: … for those of a model's own train_step or of a strategy",
    ),
    Column(
        "learning_rate",
        "float",
        "",
        "Learning rate requested, before scaling; a factor on the rates of a model's own optimizers",
    ),
    Column("lr_scaling", "text", "", "How the learning rate depends on the global batch"),
    Column("reference_batch", "float", "examples", "Global batch that the learning rate is for"),
    Column("warmup_epochs", "float", "epochs", "Epochs over which the learning rate rises to its value"),
    Column("lr_schedule", "text", "", "How it falls after the warm-up, as --lr-schedule; empty in older files"),
    Column("precision", "text", "", "Dtype policy of --precision; empty: the model's own, or an older file"),
    Column("jit", "text", "", "Whether XLA was to compile, as --jit; empty: auto, or an older file"),
    Column("class_weight", "text", "", "Weights of the classes in the training loss, as --class-weight"),
    Column("evaluate_every", "text", "", "When the weights are evaluated, as --evaluate-every; empty for each epoch"),
    Column("seed", "int", "", "Seed of the initial weights and of the data order"),
    Column("cores_per_replica", "int", "cores", "CPU cores given to each replica"),
    Column("options", "text", "JSON", "The strategy's options"),
    Column("inject", "text", "", "Faults injected on purpose, in the form of --inject, separated by spaces"),
    Column("profile", "int", "steps", "Steps that TensorFlow's profiler recorded, as --profile; rates leave them out"),
    Column("repeat", "int", "", "Number of this repeat of the same spec"),
    Column("spec", "text", "JSON", "The whole spec"),
)

_MEASURES = (
    Column("started_at", "text", "ISO 8601, UTC", "When the run was launched"),
    Column("startup_seconds", "float", "s", "From launch until rank 0 was ready for its first step"),
    Column("first_step_seconds", "float", "s", "Rank 0's first step, with tracing and compilation"),
    Column("tracing_seconds", "float", "s", "The same less a median measured step: tracing and compiling"),
    Column("train_seconds", "float", "s", "Sum of rank 0's epochs, without evaluation"),
    Column("evaluation_seconds", "float", "s", "From the end of rank 0's last epoch until its end"),
    Column("total_seconds", "float", "s", "From launch until every task had ended"),
    Column("steps_done", "int", "steps", "Rank 0's steps, warm-up included"),
    Column("warmup_steps", "float", "steps", "Those of them that rates leave out; missing in older files"),
    Column("examples_done", "int", "examples", "All tasks' examples, warm-up included"),
    Column("examples_per_second", "float", "examples/s", "Sum of the tasks' rates over their measured steps"),
    Column("input_share", "float", "1", "Share of all tasks' measured steps in which they waited for data"),
    Column("computing_share", "float", "1", "The same in which they computed; missing, as the next two, if not known"),
    Column("communicating_share", "float", "1", "The same in which they could not, as tensors were on the way"),
    Column("waiting_share", "float", "1", "The same in which they waited for other workers, or parts of the model"),
    Column("straggler", "text", "", "The worker that computes at least 10 % longer than the others' median, if any"),
    Column("tokens_per_second", "float", "tokens/s", "The same in tokens, where examples are sequences of ids"),
    Column("flops_per_example", "float", "FLOP", "Forward and backward pass, by TensorFlow's profiler; else missing"),
    Column("flops_per_second", "float", "FLOP/s", "flops_per_example times examples_per_second"),
    *_quantiles(),
    Column("input_seconds_median", "float", "s", "Median wait for data over all tasks' measured steps"),
    Column("peak_rss_bytes", "float", "bytes", "Peak memory of the largest task"),
    Column("peak_rss_bytes_total", "float", "bytes", "Sum of the peak memory of all tasks that reported it"),
    *_TRAFFIC,
    *_BANDWIDTH,
    *_UPDATES,
    Column("staleness_mean", "float", "updates", "Mean staleness of the applied updates"),
    Column("staleness_max", "float", "updates", "Greatest staleness of an applied update"),
    Column("final_loss", "float", "", "Training loss of the last epoch, weighted by examples over all tasks"),
    Column("validation_loss", "float", "", "Loss of the last evaluation on the validation examples"),
    Column("validation_accuracy", "float", "1", "Accuracy of the last evaluation on the validation examples, if any"),
    Column("validation_metric", "float", "", "The main metric of the last evaluation on the validation examples"),
    Column("test_loss", "float", "", "Loss on the test examples after training"),
    Column("test_accuracy", "float", "1", "Accuracy on the test examples after training, if any"),
    Column("test_metric", "float", "", "The main metric on the test examples after training"),
    Column("metric", "text", "", "The main metric: perplexity, else accuracy, else the first one, else the loss"),
    Column("parameters", "float", "", "Number of values in the model's weights"),
    Column("tasks", "int", "processes", "Processes of the run"),
    Column("compiled", "bool", "", "Whether XLA compiled what computes the gradients"),
    Column("updates_skipped", "float", "updates", "Left out as float16 gradients were not finite; see loss scaling"),
    Column("evaluations_per_step", "float", "1", "Times that L-BFGS asked for loss and gradient of a step's batch"),
    Column("portions_repeated", "float", "portions", "Of batches: given to a second worker as the first took long"),
    Column("cut", "text", "", "Last layer of each part of a cut model, and the part's share of the measured time"),
    Column("bubble", "float", "1", "Share of the passes' time in which a part of a cut model computed nothing"),
    Column("bubble_expected", "float", "1", "The same for passes that all take equally long: (S-1)/(M+S-1)"),
    Column("work_seconds", "float", "s", "W: all operations of a step of a cut model, one after the other"),
    Column("depth_seconds", "float", "s", "D: its longest chain of operations that wait for one another"),
    Column("unused", "text", "", "What the model sets, as with compile(), and the run did not use"),
    *_EQUAL_WORK,
    Column("profiles", "text", "", "Folder of what was recorded, in the output folder; empty without --profile"),
    Column("oversubscribed", "bool", "", "Whether the replicas got fewer cores than the spec says"),
    Column("load_before", "float", "programs", "Load average over the minute before the launch, earlier runs included"),
    Column("other_cpu_share", "float", "1", "Share of its cores' time that other programs used during training"),
    Column("steal_share", "float", "1", "Share that the hypervisor took of one core, the one with most"),
    Column("throttled_share", "float", "1", "Share of its cores' time in which its container's CPU limit throttled it"),
    Column("involuntary_switches_per_second", "float", "1/s", "Of the task with the most: see the tasks table"),
    Column("disturbed", "text", "", "What disturbed it, by these shares; empty if nothing did, or if unknown"),
)

ENVIRONMENT = (
    Column("host", "text", "", "Name of the machine that launched the run"),
    Column("os", "text", "", "Operating system"),
    Column("cpu_model", "text", "", "CPU model"),
    Column("cpu_governor", "text", "", "How the kernel chooses the cores' frequencies; empty if nothing says it"),
    Column("cores_available", "int", "cores", "Cores that the launcher was allowed to use"),
    Column("cpu_limit_cores", "float", "cores", "CPU time that its container allows a second, at most cores_available"),
    Column("memory_bytes", "int", "bytes", "Memory of the machine"),
    Column("memory_limit_bytes", "float", "bytes", "Memory that its container allows; missing without a limit"),
    Column("gpus", "text", "", "Names of the GPUs"),
    Column("gpu_driver", "text", "", "Version of their driver"),
    Column("settings", "text", "", "Environment variables that were set and change how fast TensorFlow computes"),
    Column("python", "text", "", "Python's version"),
    Column("tensorflow", "text", "", "TensorFlow's version"),
    Column("tensorflow_build", "text", "", "From what it was built: commit, compiler, and CUDA if any"),
    Column("keras", "text", "", "Keras's version"),
    Column("horovod", "text", "", "Horovod's version"),
    Column("stratbench", "text", "", "This program's version"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "runs": (
        _RUN_ID,
        Column("status", "text", "", "One of " + ", ".join(STATUSES)),
        Column("reason", "text", "", "Why the status isn't ok"),
        *_SPEC,
        *_MEASURES,
        *_FAULTS,
        *ENVIRONMENT,
    ),
    "epochs": (
        _RUN_ID,
        Column("epoch", "int", "", "Which epoch, as the tasks number them"),
        Column("seconds", "float", "s", "Rank 0's time for it; missing if it was not complete"),
        Column("examples_per_second", "float", "examples/s", "Sum of the tasks' rates over measured steps"),
        Column("train_loss", "float", "", "Mean training loss, weighted by examples over all tasks"),
        Column("validation_loss", "float", "", "Loss on the validation examples after the epoch, if evaluated then"),
        Column("validation_accuracy", "float", "1", "Accuracy on the validation examples then, if any"),
        Column("validation_metric", "float", "", "The main metric on the validation examples then"),
        Column(
            "consensus_distance", "float", "", "Root of the mean squared distance of processes' weights to their mean"
        ),
        *_TRAFFIC,
    ),
    "metrics": (
        _RUN_ID,
        Column("epoch", "int", "", "In which epoch, or after it"),
        Column("step", "float", "steps", "After how many steps of rank 0; missing for train_step"),
        Column("seconds", "float", "s", "Rank 0's training time until then; missing for train_step, or if not known"),
        Column(
            "split",
            "text",
            "",
            "Of which examples: validation; after the last step train and test, too. "
            "train_step: what a model's own train_step returned, as the mean over the epoch's steps and all replicas",
        ),
        Column(
            "metric", "text", "", "Its name in Keras: loss, or a metric of compile(); a key of what train_step returned"
        ),
        Column("value", "float", "", "Its value"),
    ),
    "steps": (
        *_TASK,
        Column("epoch", "int", "", "Which epoch"),
        Column("step", "int", "", "Which step of the task"),
        Column("step_seconds", "float", "s", "From the end of the previous step to the end of this one"),
        Column("input_seconds", "float", "s", "The part of it in which the task waited for data"),
        Column("examples", "int", "examples", "Examples that this task used"),
        Column("loss", "float", "", "Their mean training loss"),
        Column("warmup", "bool", "", "Whether rates and quantiles leave the step out"),
        *_SPLIT,
    ),
    "updates": (
        *_TASK,
        Column("step", "int", "", "Step of the task that pushed it, as in the steps table"),
        Column("update", "int", "", "Its number in the order of application, from 0; if dropped, the next number"),
        Column("fetched", "int", "", "Number of the first update that its worker's weights did not include yet"),
        _STALENESS,
        Column("clock", "int", "steps", "Steps that its worker had ended when it was allowed to start this step"),
        Column("slowest_clock", "float", "steps", "Fewest that any worker had ended then; SSP bounds clock minus this"),
        Column("blocked_seconds", "float", "s", "How long its worker waited for others, at a barrier or at a bound"),
        Column("applied", "bool", "", "Whether it changed the weights; false if it came too late"),
    ),
    "staleness": (
        *_TASK,
        _STALENESS,
        Column("updates", "int", "updates", "Number of the task's applied updates with this staleness"),
    ),
    "tasks": (
        *_TASK,
        Column("host", "text", "", "Machine that it ran on"),
        Column("pid", "float", "", "Its process id"),
        Column("replicas", "float", "replicas", "Replicas that it computed"),
        Column("cores", "text", "", "The cores that it was bound to, separated by commas"),
        Column("examples", "int", "examples", "Examples of its measured steps"),
        Column("measured_seconds", "float", "s", "Sum of the times of its measured steps"),
        Column("examples_per_second", "float", "examples/s", "Examples divided by measured_seconds"),
        Column("input_seconds", "float", "s", "The part of measured_seconds in which it waited for data"),
        *_SPLIT,
        Column(
            "last_share", "float", "1", "Share of its measured steps in which it was the last to be ready, if known"
        ),
        Column("weights_bytes", "float", "bytes", "Weights that it holds, trainable or not: sum over its variables"),
        Column("optimizer_bytes", "float", "bytes", "Optimizer state that it holds: sum over its variables"),
        Column("transient_bytes", "float", "bytes", "Most that it holds in addition during a step, in transit"),
        Column(
            "activation_bytes", "float", "bytes", "Outputs of its layers that it keeps for the backward pass, by shapes"
        ),
        Column(
            "peak_rss_bytes",
            "float",
            "bytes",
            "Its peak memory, with all libraries; missing if it was killed",
        ),
        Column("gpu_peak_bytes", "float", "bytes", "Most that tensors took of one of its GPUs; missing without GPUs"),
        Column(
            "cpu_seconds",
            "float",
            "s",
            "CPU time of its threads, without rank 0's evaluation and a fork server's imports",
        ),
        Column("sent_bytes", "float", "bytes", "What it sent over TCP, as the kernel counts it"),
        Column("received_bytes", "float", "bytes", "What it received over TCP, as the kernel counts it"),
        *_UPDATES,
        Column("involuntary_switches", "float", "", "How often the kernel took a core from it during training"),
        Column("injected_seconds", "float", "s", "How much longer --inject made its steps"),
        Column("starts", "float", "", "How often it was started"),
        Column("start_method", "text", "", "forked from a process that had done the imports, or fresh and why"),
        Column("outcome", "text", "", "How it ended"),
    ),
}

if __name__ == "__main__":
    print(markdown(), end="")
