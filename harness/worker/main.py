"""One task of a run, in a process of its own: ``python -m stratbench.harness.worker RUN_FOLDER``.

The only place that loads TensorFlow. The task journals what it does to ``RUN_FOLDER/<role>-<index>.jsonl``; the parent
reads that, and nothing else, so a task that is killed has lost at most the last quarter of a second.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from ...errors import StratbenchError
from ...results.raw import journal as journals
from ...results.raw.journal import PROFILES, Journal
from ...strategies.base import TASK_VARIABLE
from ...strategies.trainer import Server
from ..launch.processes import alive, created
from ..launch.starter import FRESH, START_VARIABLE
from ..plan import cores, spec, temporary, variables
from ..plan.task import current_task, launcher_pid
from . import usage
from .wording import one_line, out_of_memory, telling_line

if TYPE_CHECKING:
    from ...strategies.base import Task

FAILED = 1
_TOLD = "told_by_stratbench"
KEEP_VARIABLE = "STRATBENCH_KEEP_WEIGHTS"
"""If it is set, the weights of each epoch stay in the run's folder: the conformance suite compares them."""


class Planned(Protocol):
    """A spec of what several tasks do together: a training, or reductions."""

    @property
    def replicas(self) -> int:
        """Of the model, or processes that reduce."""

    @property
    def cores_per_replica(self) -> int:
        """Of each."""

    @property
    def per_replica_batch(self) -> int | None:
        """In examples, for the advice where memory runs out; None without examples."""

    def labels(self) -> list[str]:
        """Of the tasks."""


Plan = TypeVar("Plan", bound=Planned)
Work = Callable[[Plan, "Task", Path, Journal, int], None]


def main(read: Callable[[Path], Plan], work: Work[Plan]) -> None:
    """Run the task that the environment names, and end the process with 0, or 1 after a failure that is journalled.

    Args:
        read: the spec in the folder.
        work: see `run_task`.
    """
    folder = Path(sys.argv[1])
    try:
        task, in_job = current_task()
        starter = launcher_pid() if in_job else None
    except StratbenchError as error:
        sys.exit(f"stratbench: {error}")
    if in_job:
        redirect(folder / f"{task.label}.log")
    run = read(folder / "spec.json")
    if task.label not in run.labels():
        sys.exit(f"stratbench: {TASK_VARIABLE} must name one of {', '.join(run.labels())}. Received: {task.label}.")
    code = run_task(run, task, folder, work, starter)
    # TensorFlow's servers and Horovod's threads have no clean way to stop; what matters is on disk.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def train() -> None:
    """`main` for a task of a training."""
    main(spec.read, train_or_serve)


def run_task(run: Plan, task: Task, folder: Path, work: Work[Plan], starter: int | None = None) -> int:
    """Do a task's work; 0 if all went well, 1 after a failure. Errors go to the journal and the log.

    Args:
        work: what the task does, given also its journal and the steps done before a restart.
        starter: process id of the stratbench whose job launcher started this process; None for any other start.
    """
    watch_parent(temporary.remove)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    mine = cores.share(cores.usable(), task.first_replica, task.replicas, run.cores_per_replica, run.replicas)
    path = folder / f"{task.label}.jsonl"
    first_step = _steps_done(path) if task.attempt else 0
    journal = Journal(path, append=task.attempt > 0)
    journal.event(
        "start",
        pid=os.getpid(),
        created=created(os.getpid()),
        start_method=os.environ.get(START_VARIABLE, f"{FRESH}: another program started it"),
        host=socket.gethostname(),
        role=task.role,
        index=task.index,
        rank=task.index,
        replicas=task.replicas,
        cores=mine,
        attempt=task.attempt,
    )
    try:
        if starter is not None:
            variables.take_rest(starter)
        # Imports may use all cores; only training is limited to the task's share.
        with no_collection():
            importlib.import_module("keras")
        cores.pin(mine)
        work(run, task, folder, journal, first_step)
    except BaseException as error:
        _tell(error, journal, run)
        return FAILED
    finally:
        journal.close()
    return 0


@contextmanager
def no_collection() -> Iterator[None]:
    """Imports without garbage collection, which afterwards leaves the imported objects alone.

    It would write to them, and so copy the pages that forked tasks share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _steps_done(path: Path) -> int:
    """Steps that the process before this one has finished, by its journal."""
    steps = journals.read(path).steps
    return int(steps["step"][-1]) + 1 if len(steps) else 0


def redirect(log: Path) -> None:
    """Send what this process and its libraries print to ``log``."""
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def train_or_serve(run: spec.RunSpec, task: Task, folder: Path, journal: Journal, first_step: int) -> None:
    """What a task of a training does."""
    # Imported here, as some of it needs TensorFlow and the rest of this module must not.
    from . import backend, first_update, operations, snapshots
    from .evaluate import evaluate
    from .inject import Injector
    from .profiling import Profiler, TensorFlowRecorder
    from .serve import serve
    from .train import train
    from .workload import SpecWorkload

    workload = SpecWorkload(run, folder, first_step)
    injector = Injector(run.faults, task, run.seed, journal, first_step)
    strategy = run.create_strategy()
    workload.delay = None if strategy.delays_parts else injector.delay
    workload.delays = injector.delays
    profiler = None
    if run.profile and not first_step:
        recorders = [TensorFlowRecorder(), *strategy.recorders()]
        profiler = Profiler(run.profile, folder / PROFILES / task.label, recorders)
    # An error is told before the trainer leaves the others, whose errors come from that.
    with strategy.trainer(task, workload) as trainer, told(journal, run):
        if isinstance(trainer, Server):
            serve(trainer, journal)
            return
        if not task.attempt:
            snapshots.remove_old(folder, trainer.rank)
        batches = workload.batches(trainer.shards, trainer.shard, trainer.count)
        batches.load()
        expected = strategy.traffic_bytes(workload.trained_bytes, run.replicas, workload.accumulate)
        journal.event(
            "ready",
            parameters=workload.parameters,
            unused=workload.unused_with(trainer.sparse),
            total_steps=workload.total_steps,
            total_examples=workload.total_examples,
            set_examples={part: len(rows) for part, rows in workload.rows.items()},
            initial_weights=workload.initial_weights,
            initial_sums=workload.initial_sums,
            versions=_versions() | {"tensorflow_build": backend.build()},
            memory=trainer.memory and dataclasses.asdict(trainer.memory),
            activation_bytes=workload.activation_bytes,
            tokens_per_example=operations.tokens_per_example(workload.info),
            compiled=workload.jit,
            traffic_bytes=expected if trainer.traffic_bytes is None else trainer.traffic_bytes,
            reduced_bytes=strategy.reduced(workload.accumulate) * workload.trained_bytes
            if not trainer.sparse
            else None,
            notes=dict(trainer.notes),
            profiled=profiler is not None,
        )
        switches = usage.involuntary_switches()
        injected = injector.around(trainer, first_step)
        reports = functools.partial(workload.reports, trainer.rank)
        schedule, steps = workload.schedule(), workload.total_steps
        exchange = strategy.exchange(run.replicas, workload.accumulate)
        train(
            injected,
            batches,
            schedule,
            steps,
            journal,
            folder,
            first_step=first_step,
            accumulate=workload.accumulate,
            scales_loss=workload.scales_loss,
            reports=reports,
            profiler=profiler,
            together=strategy.together,
            evaluated=functools.partial(run.evaluations.due, steps_per_epoch=workload.steps_per_epoch),
            meets=exchange is None or exchange.waits,
            updated=lambda weights: journal.event("updated", sums=first_update.sums(weights, workload.trained)),
        )
        if profiler:
            profiler.stop()
        journal.event(
            "trained",
            involuntary_switches=usage.involuntary_switches() - switches,
            updates_skipped=trainer.skipped_updates(),
            figures=dict(trainer.figures()),
        )
        used = usage.totals() | {"gpu_peak_bytes": backend.gpu_peak_bytes()}
        workload.delay = None
    if reports():
        with _snapshots(folder):
            evaluate(workload, folder, journal)
    journal.event("end", **used, injected_seconds=injector.delayed_seconds)


@contextmanager
def _snapshots(folder: Path) -> Iterator[None]:
    from . import snapshots

    try:
        yield
    finally:
        if not os.environ.get(KEEP_VARIABLE):
            snapshots.remove(folder)


@contextmanager
def told(journal: Journal, run: Planned) -> Iterator[None]:
    """Journal an error within, before others learn of it."""
    try:
        yield
    except BaseException as error:
        _tell(error, journal, run)
        raise


def _tell(error: BaseException, journal: Journal, run: Planned) -> None:
    """Journal and log an error, once."""
    if hasattr(error, _TOLD):
        return
    setattr(error, _TOLD, True)
    known = isinstance(error, StratbenchError)
    text = telling_line(str(error))
    batch = run.per_replica_batch
    advice = out_of_memory(error, batch) if batch else None
    journal.event("failed", error=text if known else advice or one_line(error))
    if not known:
        traceback.print_exc()
    else:
        print(text, file=sys.stderr)


def watch_parent(last: Callable[[], None] = lambda: None) -> None:
    """End this process when the launcher is gone, killed without a chance to end its tasks.

    Args:
        last: called before that.
    """
    parent = launcher_pid()
    if parent is None:
        return
    import psutil

    try:
        launcher = psutil.Process(parent)
    except psutil.NoSuchProcess:
        os._exit(FAILED)

    def watch() -> None:
        while alive(launcher):
            time.sleep(1.0)
        last()
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
