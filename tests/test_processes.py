from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from stratbench.errors import RunError
from stratbench.harness.launch.ports import Ports
from stratbench.harness.launch.processes import alive, describe_exit, end_all
from stratbench.harness.launch.watch import Watch
from stratbench.harness.plan import cores
from stratbench.harness.plan.task import current_job, current_task
from stratbench.strategies.base import THIS_HOST, Task


def test_reserved_ports_are_distinct_and_given_to_nobody_else() -> None:
    with Ports() as ports:
        numbers = [int(ports.address(THIS_HOST).split(":")[1]) for _ in range(20)]
        assert len(set(numbers)) == 20
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", numbers[0]))
        # A server that sets SO_REUSEADDR, as TensorFlow's do, may listen there.
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("0.0.0.0", numbers[0]))
            server.listen()


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        taken = other.getsockname()[1]
        with Ports() as ports, pytest.raises(RunError, match=f"port {taken} is taken"):
            ports.address(THIS_HOST, taken)


def test_every_replica_has_its_own_cores() -> None:
    machine = [4, 5, 6, 7]
    assert [cores.share(machine, replica, 1, 2, 2) for replica in range(2)] == [[4, 5], [6, 7]]
    assert cores.share(machine, 0, 2, 2, 2) == machine
    assert cores.share(machine, 0, 0, 1, 3) == [4, 5, 6]
    assert [cores.share(machine, replica, 1, 1, 8) for replica in (0, 3, 4)] == [[4], [7], [4]]


def test_all_descendants_end_even_those_that_ignore_sigterm() -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read(1) == b"x"
    import psutil

    child = psutil.Process(process.pid).children()[0]
    end_all([process], [], grace=0.5)
    assert process.returncode is not None
    assert not alive(child)


def test_exits_in_words() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(137) == "killed by SIGKILL"
    assert describe_exit(3) == "exit code 3"


def test_a_worker_knows_its_task() -> None:
    told = Task(index=2, first_replica=2)
    assert current_task({"STRATBENCH_TASK": told.to_json()}) == (told, False)
    started = Task(command=("horovodrun",), starts=4)
    environment = {
        "STRATBENCH_TASK": started.to_json(),
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "4",
        "HOROVOD_LOCAL_RANK": "1",
    }
    assert current_task(environment) == (Task(index=3, first_replica=1), True)
    assert current_job({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}).size == 2  # type: ignore[union-attr]
    assert current_job({}) is None


def test_the_one_that_was_killed_is_named_before_one_that_aborted(tmp_path: Path) -> None:
    watch = Watch([Task(index=0), Task(index=1)], tmp_path, lambda label, event: None)
    aborted, killed = watch.death("worker-0", -signal.SIGABRT), watch.death("worker-1", -signal.SIGKILL)
    assert watch.explain([aborted, killed]).startswith("worker-1 was killed by SIGKILL")
    assert watch.explain([aborted]).startswith("worker-0 was killed by SIGABRT")
