"""What this machine can run, and how to fix what it can't: ``stratbench doctor``."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...results.raw.environment import capture
from ...results.showing.terminal import make_console
from ...strategies.base import Strategy
from ...strategies.collectives._build import HorovodStatus, status
from ...strategies.registry import available

REPLICAS = (1, 2)
"""The numbers of replicas to check for each strategy: one, and two, which exchange gradients."""

PROBE_SECONDS = 120

# Run in a separate process: the command line never loads TensorFlow, and must survive a crash on import.
_PROBE = """
import json
import tensorflow, keras
found = tensorflow.config.list_physical_devices()
devices = [{"name": device.name, "type": device.device_type} for device in found]
print()
print(json.dumps({"tensorflow": tensorflow.__version__, "keras": keras.__version__, "devices": devices}))
"""


@dataclass(frozen=True)
class Frameworks:
    """TensorFlow and Keras, as imported in a separate process.

    Attributes:
        devices: the devices that TensorFlow computes on, each with ``name`` and ``type``.
        problem: why they can't be imported, and the command that fixes it; None if they can.
    """

    tensorflow: str | None = None
    keras: str | None = None
    devices: tuple[dict[str, str], ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class StrategyCheck:
    """Whether a strategy runs here with its default options.

    Attributes:
        reasons: number of replicas → why it can't run; None if it can.
    """

    name: str
    reasons: dict[int, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that the doctor found.

    Attributes:
        machine: as `results.environment.capture` describes it.
    """

    machine: dict[str, Any]
    frameworks: Frameworks
    horovod: HorovodStatus
    strategies: tuple[StrategyCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether anything can be trained here. Without Horovod, other strategies still can."""
        return self.frameworks.problem is None

    @property
    def unseen_gpus(self) -> str | None:
        """A problem, if TensorFlow doesn't see the machine's GPUs and CUDA_VISIBLE_DEVICES doesn't hide them."""
        kinds = {device["type"] for device in self.frameworks.devices}
        if not self.machine["gpus"] or not kinds or "GPU" in kinds or "CUDA_VISIBLE_DEVICES" in os.environ:
            return None
        return f"TensorFlow doesn't see {self.machine['gpus']}; run: pip install 'tensorflow[and-cuda]'"

    @property
    def problems(self) -> list[str]:
        """Each problem in one sentence, which ends with the command that fixes it."""
        found = (self.frameworks.problem, self.unseen_gpus, self.horovod.problem)
        return [problem for problem in found if problem]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with ``ok`` and ``problems``."""
        return {"ok": self.ok, "problems": self.problems, **dataclasses.asdict(self)}


def examine() -> Report:
    """Check this machine. Takes as long as importing TensorFlow."""
    frameworks = probe_frameworks()
    # Without TensorFlow no strategy can run, so none is checked.
    blocked = "TensorFlow can't be imported" if frameworks.problem else None
    checks = (check_strategy(name, cls, blocked) for name, cls in available().items())
    return Report(machine=capture(), frameworks=frameworks, horovod=status(), strategies=tuple(checks))


def probe_frameworks(program: str = _PROBE, timeout: float = PROBE_SECONDS) -> Frameworks:
    """Import TensorFlow and Keras in a separate process and list the devices."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-P", "-c", program]
    try:
        answer = subprocess.run(
            command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Frameworks(problem=f"importing TensorFlow took more than {timeout:g} s; run: {_import_command()}")
    if answer.returncode:
        return Frameworks(problem=_import_problem(answer.returncode, answer.stderr))
    found = json.loads(answer.stdout.splitlines()[-1])
    return Frameworks(found["tensorflow"], found["keras"], tuple(found["devices"]))


def check_strategy(name: str, cls: type[Strategy], blocked: str | None = None) -> StrategyCheck:
    """Check one strategy with each of `REPLICAS`. An exception is reported, not raised."""
    reasons: dict[int, str | None] = {}
    for replicas in REPLICAS:
        try:
            reasons[replicas] = blocked or _reason(cls, replicas)
        except Exception as error:  # a bug in one strategy's file must not hide the results of the others
            reasons[replicas] = f"{type(error).__name__} when asked: {error}"
    return StrategyCheck(name, reasons)


def _reason(cls: type[Strategy], replicas: int) -> str | None:
    if cls.max_replicas is not None and replicas > cls.max_replicas:
        return f"it has at most {cls.max_replicas} replica{'s' if cls.max_replicas > 1 else ''}"
    return cls().skip(replicas)


def _import_problem(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else f"exit code {code}"
    if last.startswith("ModuleNotFoundError"):
        return f"{last}; run: pip install 'tensorflow>=2.21' 'keras>=3.15'"
    return f"importing TensorFlow fails: {last}; run: {_import_command()}"


def _import_command() -> str:
    return f"{sys.executable} -c 'import tensorflow'"


def render(report: Report, console: Console | None = None) -> None:
    """Print the report for people."""
    console = console or make_console(sys.stdout)
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value, problem in _facts(report):
        facts.add_row(name, Text(problem, "yellow") if problem else Text(value))
    console.print(facts, "", _strategy_table(report.strategies))
    if not report.ok:
        console.print(Text("\nNothing can be trained here.", "bold red"))


def _facts(report: Report) -> list[tuple[str, str, str | None]]:
    """Rows of name, value, and the problem that is shown instead of the value."""
    machine, frameworks, horovod = report.machine, report.frameworks, report.horovod
    kinds = [device["type"] for device in frameworks.devices]
    devices = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    features = [*horovod.controllers, *(["nccl"] if horovod.nccl else [])]
    built = f"{horovod.version}, built for TensorFlow {horovod.built_for_tensorflow} with {', '.join(features)}"
    return [
        ("TensorFlow", frameworks.tensorflow or "", frameworks.problem),
        ("Keras", frameworks.keras or "unknown", None),
        ("Horovod", built, horovod.problem),
        ("devices", devices or "unknown", report.unseen_gpus),
        ("GPUs", machine["gpus"] or "none", None),
        ("CPU", machine["cpu_model"], None),
        ("cores usable", str(machine["cores_available"]), None),
        ("memory", f"{machine['memory_bytes'] / 2**30:.1f} GiB", None),
        ("Python", machine["python"], None),
        ("stratbench", machine["stratbench"], None),
    ]


def _strategy_table(checks: tuple[StrategyCheck, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    for replicas in REPLICAS:
        table.add_column(f"{replicas} replica{'s' if replicas > 1 else ''}", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for check in checks:
        reasons = list(dict.fromkeys(reason for reason in check.reasons.values() if reason))
        marks = (Text("no", "yellow") if check.reasons[replicas] else Text("yes", "green") for replicas in REPLICAS)
        table.add_row(check.name, *marks, Text("; ".join(reasons)))
    return table
