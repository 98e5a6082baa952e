"""Whatever a user types, puts into a spec file or has in the environment: one line, and exit code 0, 1 or 2.

The last resort of `main`, which makes one line of an exception that nobody foresaw, is taken out: nothing may rely on
it. Nothing is started; a command that would start something is caught where it would.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from stratbench.errors import StratbenchError, UsageError
from stratbench.harness.cli import commands, session
from stratbench.harness.launch import preparing, trying
from stratbench.harness.plan.faults import parse as parse_fault
from stratbench.harness.plan.task import current_job, current_task, launcher_pid

DIGITS = "9" * 5000
NUMBERS = [
    *("0", "1", "2", "3", "7", "-1", "-0", "-0.0", "1.5", "1e3", "1e400", "-1e400", "nan", "inf", "-inf", "1e-400"),
    *("2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "1" + "0" * 40, "9" * 4300, DIGITS),
    *("-" + DIGITS, "0x10", "0b1", "1_000", " 1", "1 ", "+1", "٣", "²", "", "1e30", "1e-30", "4096", "4097", "1/3"),
    *("true", "false", "none", "1,2", "1,,2", "1000000000", "." + "0" * 4000 + "1", "1e-999999999", "1e999999999"),
]
NON_UTF8 = "caf\udce9"
TEXTS = [
    *("", " ", ":", "=", ",", ":=", "a:b", "a:", ":b", "a:b:c", "-", "--", "-h", "\0", "a\0b", "\ud800", NON_UTF8),
    *(
        "x" * 300,
        "x" * 5000,
        "é×–",
        "\x1b[31mred",
        "a\nb\rc\x85d\u2028e",
        "{}",
        "{0}",
        "%s",
        "[/b]",
        "../..",
        "~",
        "~x",
    ),
    *("$HOME", "'", '"', "\\", "/", "//", ".", "..", "...", "None", "__import__('os')", "😀", "\u202e", "\ufeff", "ﬀ"),
]
PATHS = ["pipe", "socket", "folder", "file", "dangling", "loop", "under/file/x", "/dev/zero", "/dev/null", "/dev/stdin"]
PATHS += [
    "/proc/self/mem",
    "/proc/self/environ",
    "/nowhere/x",
    "/",
    "folder/.",
    "piped",
    "tables",
    "x" * 300,
    "y/" * 2500,
]
REFERENCES = {
    "--strategy": ["single", "mirrored", "ps", "ps:sync=true", "ps-tree", "horovod", "local-sgd", "fsdp", "allgather"],
    "--dataset": ["synthetic", "mnist-12k", "mnist", "hdf5:file", "synthetic:classes=3", "synthetic:examples=100"],
    "--model": ["cnn", "mlp", "mlp-wide", "mlp-wide:units=8", "package.module:function"],
    "--split": ["default", "60/20/20", "0.6/0.2/0.2", "98/1/1", "1/1/98", "60/20"],
    "--inject": ["kill:worker=0,step=1", "slow:worker=0,factor=2", "pause:worker=0,step=1,seconds=1"],
}
KEYS = {
    "--strategy": "sync ps mode lock backup staleness fetch push warm_start checkpoint_every port fanout period "
    "fusion_mib cycle_ms min_replicas elastic op cross_device_ops communication x",
    "--dataset": "shape classes examples seed x y path",
    "--model": "units x",
    "--inject": "worker ps step seconds factor probability x",
}
INTEGERS = [
    "--replicas",
    "--global-batch",
    "--per-replica-batch",
    "--epochs",
    "--steps",
    "--reference-batch",
    "--seed",
    "--accumulate",
]
INTEGERS += ["--cores-per-replica", "--repeats"]
FLOATS = ["--learning-rate", "--warmup-epochs", "--timeout", "--clip-norm"]
CHOICES = {
    "--sharding": ["batch", "static"],
    "--last-batch": ["drop", "keep"],
    "--optimizer": [
        "sgd",
        "momentum",
        "adam",
        "adagrad",
        "adamw:weight_decay=0.1",
        "sgd:a=1,b=true",
        "lion:",
        "adam:clipnorm=1",
        "adam:gradient_accumulation_steps=2",
    ],
    "--lr-schedule": ["constant", "cosine", "cosine:end=0.1", "step:every=2,factor=0.5", "exponential", "step:"],
    "--lr-scaling": ["none", "linear", "sqrt"],
}
FLAGS = [*INTEGERS, *FLOATS, *CHOICES, *REFERENCES, "--option", "--output", "--spec", "--json", "-n", "-s", "-o"]

any_text = st.one_of(st.sampled_from(TEXTS), st.text(max_size=20), st.sampled_from(NUMBERS), st.sampled_from(PATHS))
any_number = st.one_of(
    st.sampled_from(NUMBERS), st.integers().map(str), st.floats().map(str), st.integers(1, 64).map(str)
)


def settled(examples: int) -> settings:
    """The same cases at every call."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=checks)


def many(examples: int, number: int) -> Callable[[Any], Any]:
    """Others than `settled` tries."""
    chosen = settings(settled(examples), derandomize=False)
    return lambda test: seed(number)(chosen(test))


@st.composite
def references(draw: st.DrawFn, flag: str) -> str:
    """``NAME:key=value,…`` that may be right."""
    name = draw(st.one_of(st.sampled_from(REFERENCES[flag]), any_text))
    if flag not in KEYS or draw(st.booleans()):
        return name
    keys = st.one_of(st.sampled_from(KEYS[flag].split()), any_text)
    pairs = draw(st.lists(st.tuples(keys, st.one_of(any_number, any_text)), max_size=3))
    return name + draw(st.sampled_from([":", ",", ":,", "::"])) + ",".join(f"{key}={value}" for key, value in pairs)


def values(flag: str) -> st.SearchStrategy[str]:
    """Of a flag: of its kind, or not."""
    flag = {"-n": "--replicas", "-s": "--strategy", "-o": "--option"}.get(flag, flag)
    if flag in INTEGERS or flag in FLOATS:
        kind = any_number
    elif flag in CHOICES:
        kind = st.sampled_from(CHOICES[flag])
    elif flag in REFERENCES:
        kind = references(flag)
    elif flag in ("--output", "--spec"):
        kind = st.sampled_from(PATHS)
    else:
        kind = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS["--strategy"].split()), any_number)
    return st.one_of(kind, kind, kind, any_text)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Mostly a good ``run`` or ``compare`` with a few flags of any value, so that many get far."""
    command = draw(st.sampled_from(["run", "compare", "run", "compare", "show", "report", "diff", "list", "anything"]))
    if command in ("show", "report", "diff"):
        return [command, draw(st.one_of(any_text, st.sampled_from(PATHS))), *draw(st.lists(any_text, max_size=1))]
    if command == "list":
        kind = draw(st.one_of(st.sampled_from(["strategies", "models", "datasets"]), any_text))
        return [command, kind, *draw(st.lists(any_text, max_size=2))]
    if command == "anything":
        return draw(st.lists(any_text, max_size=4))
    good = ["-s", "mirrored"], ["--dataset", "synthetic"], ["--global-batch", "12"], ["--model", "mlp"]
    kept = [part for pair in good if draw(st.integers(0, 5)) for part in pair]
    flags = draw(st.lists(st.sampled_from(FLAGS), min_size=1, max_size=3))
    given = [part for flag in flags for part in ([flag] if flag == "--json" else [flag, draw(values(flag))])]
    return [command, *kept, *given]


@pytest.fixture(scope="module", autouse=True)
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: what `PATHS` names is there, and nothing is started or waited for."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as listener:
        patch.chdir(folder)
        for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "COLUMNS"):
            patch.delenv(name, raising=False)
        os.mkfifo("pipe")
        listener.bind("socket")
        for path in ("folder", "piped", "tables/results.h5", "under"):
            Path(path).mkdir(parents=True)
        os.mkfifo("piped/results.h5")
        Path("file").write_text("no table\n")
        Path("under/file").touch()
        Path("dangling").symlink_to("nothing")
        Path("loop").symlink_to("loop")
        patch.setattr(session, "run_specs", lambda *_: ([], 0))
        patch.setattr(commands, "_print_folder", lambda *_: None)
        patch.setattr(commands, "fail_unforeseen", reraise)
        patch.setattr(trying, "ask", lambda *_: {"unused": ""})
        patch.setattr(preparing, "ask", lambda *_: {"refused": "data set must be imported"})
        yield folder


def reraise(error: Exception) -> NoReturn:
    raise error


def call(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    errors = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["stratbench", *arguments]),
        mock.patch.dict(os.environ, environment or {}),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        commands.main()
    return int(ended.value.code or 0), errors.getvalue()


def assert_one_line(arguments: list[str], environment: dict[str, str] | None = None) -> None:
    """The property."""
    before = sorted(Path().iterdir())
    code, errors = call(arguments, environment)
    assert code in (0, 1, 2)
    if code and arguments:
        # What splitlines splits at is more than what ends a line, but a terminal may take it for one too.
        assert len(errors.splitlines()) == 1 and errors.startswith("stratbench: "), errors
        assert len(errors) < 1500 and errors.rstrip("\n").isprintable()
    assert sorted(Path().iterdir()) == before, "nothing ran, and something is left behind"


class TestCommandLine:
    @settled(1000)
    @given(command_lines())
    def test_is_answered_in_one_line(self, arguments: list[str]) -> None:
        assert_one_line(arguments)

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("number", range(4))
    def test_is_answered_in_one_line_however_long_one_looks(self, number: int) -> None:
        many(8_000, number)(given(command_lines())(lambda arguments: assert_one_line(arguments)))()

    @pytest.mark.parametrize("flag", FLAGS)
    def test_takes_the_worst_for_every_flag(self, flag: str) -> None:
        good = ["run", "-s", "mirrored", "--dataset", "synthetic", "--global-batch", "12", "--model", "mlp"]
        for value in (*NUMBERS, *TEXTS, *PATHS):
            assert_one_line([*good, flag, value])

    def test_of_references_that_nearly_do_is_answered_in_one_line(self) -> None:
        for flag, references in REFERENCES.items():
            for reference in references:
                assert_one_line(
                    ["run", "-s", "single", "--dataset", "synthetic", "--global-batch", "4", flag, reference]
                )

    def test_of_a_path_that_blocks_or_never_ends_is_refused(self) -> None:
        for path in ("pipe", "/dev/zero", "folder", "socket", "/dev/null", "dangling", "loop", "x" * 300, "y/" * 2500):
            code, errors = call(["run", "-s", "single", "--global-batch", "8", "--spec", path])
            assert code == 2 and "the spec file" in errors, path
        for path in ("pipe", "/dev/zero", "file", "socket", "loop", "under/file/x", "x" * 300, "y/" * 2500, ""):
            code, _ = call(["run", "-s", "single", "--dataset", "synthetic", "--global-batch", "8", "--output", path])
            assert code == 2, path
        for path in ("pipe", "/dev/zero", "piped", "tables", "loop", "x" * 300, "y/" * 2500):
            assert call(["show", path])[0] == 2, path
            assert call(["report", path])[0] == 2, path
            assert call(["diff", path, path])[0] == 2, path

    def test_of_more_runs_than_anyone_waits_for_is_refused_at_once(self) -> None:
        compare = ["compare", "-s", "mirrored", "--dataset", "synthetic", "--per-replica-batch", "1"]
        code, errors = call([*compare, "--repeats", "1000000000"])
        assert code == 2 and "--repeats must be at most 10000. Received: 1000000000" in errors
        code, errors = call([*compare, "-n", ",".join(map(str, range(1, 1001))), "--repeats", "11"])
        assert code == 2 and "at most 10000 runs" in errors and "Received: 11000" in errors
        assert call([*compare, "-n", "1," * 1_000_000 + "1"])[0] == 0
        code, errors = call([*compare, "-n", "4097"])
        assert code == 2 and "--replicas must be at most 4096" in errors

    def test_of_as_many_runs_as_one_may_ask_for_is_planned_in_a_moment(self) -> None:
        compare = ["compare", "-s", "mirrored", "-s", "single", "--dataset", "synthetic", "--per-replica-batch", "1"]
        assert call([*compare, "-n", "1,2,3,4", "--repeats", "2000"])[0] == 0


SCALARS = st.one_of(
    any_number.filter(lambda text: text != ""),
    any_text.map(lambda text: "'''" + text.replace("'", "") + "'''"),
    st.sampled_from(['"\\u0000"', '"\\ud800"', '"\\U00110000"', "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"]),
    st.sampled_from(["0x" + "f" * 6000, "-0x1", "0b" + "1" * 70, "9" * 4000, "1e400", "nan", "-inf", "{}", "{a = 1}"]),
    st.sampled_from(["[]", "[[]]", "[[1, 2], [3]]", '["a", 1]', "[1, 2.5]", "[true]", "[" * 3000, "{a=" * 3000]),
    st.sampled_from(["[" * 400 + "1" + "]" * 400, "[" + "1," * 9999 + "]", "[" + "'single'," * 9999 + "]"]),
)
TOML_KEYS = [flag[2:].replace("-", "_") for flag in FLAGS if flag.startswith("--")] + ["dry", "a.b", "''", '"\\u0000"']
TOML_GOOD = 'strategy = ["mirrored"]\ndataset = "synthetic"\nglobal_batch = 12\n'


@st.composite
def specs(draw: st.DrawFn) -> bytes:
    """A spec file's content."""
    if not draw(st.integers(0, 9)):
        return draw(st.one_of(st.binary(max_size=50), any_text.map(lambda text: text.encode("utf-8", "replace"))))
    lines = draw(st.lists(st.tuples(st.sampled_from(TOML_KEYS), SCALARS), min_size=1, max_size=3))
    text = (TOML_GOOD if draw(st.booleans()) else "") + "\n".join(f"{key} = {value}" for key, value in lines)
    options = draw(st.lists(st.tuples(st.sampled_from(KEYS["--strategy"].split()), SCALARS), max_size=2))
    text += "\n[option]\n" + "\n".join(f"{key} = {value}" for key, value in options) if options else ""
    return text.encode("utf-8", draw(st.sampled_from(["surrogatepass", "replace"])))


def assert_spec_is_answered(content: bytes, command: str) -> None:
    """The property, for a spec file."""
    Path("file").write_bytes(content)
    assert_one_line([command, "--spec", "file"])


class TestSpecFile:
    @settled(500)
    @given(specs(), st.sampled_from(["run", "compare"]))
    def test_is_answered_in_one_line(self, content: bytes, command: str) -> None:
        assert_spec_is_answered(content, command)

    @pytest.mark.exhaustive
    def test_is_answered_in_one_line_however_long_one_looks(self) -> None:
        many(8_000, 1)(given(specs(), st.sampled_from(["run", "compare"]))(assert_spec_is_answered))()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("seed = 0x" + "f" * 6000, "seed must be a whole number"),
            ("learning_rate = 1" + "0" * 400, "learning_rate must be a number"),
            ("seed = " + DIGITS, "must be TOML"),
            ('dataset = "a\\u0000b"', "NUL"),
            ('output = "a\\u0000b"', "NUL"),
            ("model = " + "[" * 5000, "nested so deep"),
            ("seed = 1\nseed = 2", "must be TOML"),
            ("global-batch = 1\nglobal_batch = 2", "given once"),
            ("model = 1979-05-27", "text in quotes"),
            ("model = {a = 1}", "text in quotes"),
            ("option = {sync = {a = 1}}", "option sync must be text, a number, true or false"),
            ("option = {ps = 1979-05-27}", "option ps must be"),
            ("strategy = [" + "'single:mode=sgd', 'ps'," * 9 + "[]]", "text in quotes"),
            (
                "global_batch = 1\nstrategy = [" + ",".join(f"'ps:port={n}'" for n in range(10_001)) + "]",
                "at most 10000 runs",
            ),
            ("#" * (2**20 + 1), "at most 1048576 bytes"),
        ],
        ids=lambda text: text[:30],
    )
    def test_of_what_no_flag_can_be_is_refused(self, line: str, message: str) -> None:
        Path("file").write_text(line)
        code, errors = call(["compare", "--spec", "file"])
        assert code == 2 and message in errors


FAULTS = st.one_of(references("--inject"), any_text)


def assert_fault_is_refused_or_kept(text: str) -> None:
    """What is taken is written in the way that is read again."""
    try:
        fault = parse_fault(text)
    except UsageError as error:
        assert text in str(error)
        return
    assert parse_fault(str(fault)) == fault
    assert 0 <= fault.index < 2**31 and (fault.step is None or 0 <= fault.step < 2**31)


@settled(800)
@given(FAULTS)
def test_a_fault_is_refused_or_kept(text: str) -> None:
    assert_fault_is_refused_or_kept(text)


VARIABLES = ["HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]
VARIABLES += ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "COLUMNS", "LINES", "TERM"]
VARIABLES += ["STRATBENCH_TASK", "STRATBENCH_DATA", "KERAS_HOME", "HOME", "XDG_CACHE_HOME", "STRATBENCH_PASS", "TMPDIR"]
VARIABLES += ["NO_COLOR", "FORCE_COLOR", "CUDA_VISIBLE_DEVICES", "STRATBENCH_PARENT"]
TASKS = [
    "{}",
    "[]",
    "null",
    "{",
    "1",
    '{"index": -1}',
    '{"index": 1.5}',
    '{"index": 1e99}',
    '{"role": "../chief"}',
    "[" * 9999,
]
TASKS += [
    '{"index": 9' + "9" * 5000 + "}",
    '{"command": ["rm"]}',
    '{"index": true}',
    '{"replicas": null}',
    '{"role": []}',
]
environments = st.dictionaries(
    st.sampled_from(VARIABLES),
    st.one_of(any_number, any_text, st.sampled_from(TASKS)).filter(
        lambda text: "\0" not in text and "\ud800" not in text
    ),
    max_size=5,
)


def assert_environment_is_answered(environment: dict[str, str], arguments: list[str]) -> None:
    """The property, and what a worker would make of it."""
    assert_one_line(arguments, environment)
    for read in (current_job, current_task, launcher_pid):
        with contextlib.suppress(StratbenchError):
            read(environment)


COMMANDS = st.sampled_from(
    [
        ["compare", "-s", "mirrored", "--dataset", "synthetic", "--global-batch", "12"],
        ["run", "-s", "ps", "--dataset", "mnist", "--global-batch", "12"],
        ["list", "strategies"],
        ["list", "datasets", "hdf5"],
        ["--help"],
    ]
)


class TestEnvironment:
    @settled(300)
    @given(environments, COMMANDS)
    def test_is_answered_in_one_line(self, environment: dict[str, str], arguments: list[str]) -> None:
        assert_environment_is_answered(environment, arguments)

    @pytest.mark.exhaustive
    def test_is_answered_in_one_line_however_long_one_looks(self) -> None:
        many(5_000, 1)(given(environments, COMMANDS)(assert_environment_is_answered))()

    @pytest.mark.parametrize(
        ("rank", "size"),
        [("x", "2"), ("-1", "2"), ("2", "2"), ("0", "0"), ("0", "1e9"), ("0", DIGITS), ("", ""), ("0", "²")],
    )
    @pytest.mark.parametrize("prefix", ["HOROVOD_", "OMPI_COMM_WORLD_", "PMI_"])
    def test_of_a_job_that_can_not_be_is_refused(self, prefix: str, rank: str, size: str) -> None:
        environment = {f"{prefix}RANK": rank, f"{prefix}SIZE": size}
        code, errors = call(["run", "-s", "horovod", "--dataset", "synthetic", "--global-batch", "8"], environment)
        assert code == 2 and f"{prefix}RANK must be from 0 to {prefix}SIZE − 1" in errors

    def test_of_a_job_whose_folder_can_not_be_made_is_refused(self) -> None:
        Path("folder/runs").touch()
        work = ["-s", "horovod", "--dataset", "synthetic", "--global-batch", "8", "--output", "folder"]
        code, errors = call(["run", *work], {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "STRATBENCH_PARENT": "x"})
        Path("folder/runs").unlink()
        assert code == 2 and "folder/runs" in errors

    @pytest.mark.parametrize("text", [task for task in TASKS if task != "{}"])
    def test_of_a_task_that_the_launcher_did_not_write_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="STRATBENCH_TASK"):
            current_task({"STRATBENCH_TASK": text})
