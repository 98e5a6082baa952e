"""The house: no circles, arrows only downward, no TensorFlow above the workers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "strategies", "datasets", "results")
ROOMS = {
    "harness": ("cli", "job", "worker", "launch", "plan", "models"),
    "results": ("reductions", "showing", "analysis", "tables", "raw"),
}
"""Of each package, top first: a room imports its own and what comes after it."""


def sources() -> dict[str, Path]:
    """Module name, without ``stratbench.``, to file."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True))


MODULES = sources()


def imports(name: str, only_running: bool = False) -> set[str]:
    """Modules of this project that ``name`` imports, anywhere in its file.

    Args:
        only_running: leave out what only type checkers import.
    """
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text())
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or (only_running and id(node) in typing):
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        base_name = ".".join(filter(None, base))
        for alias in node.names:
            full = f"{base_name}.{alias.name}".lstrip(".")
            found.add(full if full in MODULES else base_name)
    return {module for module in found if module in MODULES}


def test_this_test_sees_imports() -> None:
    assert {"harness.plan.spec", "results.raw.record"} <= imports("harness.launch.run")
    assert "strategies.base" in imports("strategies.collectives.horovod")


@pytest.mark.parametrize("only_running", [True, False])
def test_no_module_imports_itself_through_others(only_running: bool) -> None:
    graph = {name: imports(name, only_running) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' → '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("package", ["strategies", "datasets", "results"])
def test_the_lower_packages_import_no_other(package: str) -> None:
    for name in MODULES:
        if name.split(".")[0] == package:
            others = {other for other in imports(name) if other.split(".")[0] != package}
            assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("package", list(ROOMS))
def test_no_room_imports_upward(package: str) -> None:
    order = ROOMS[package]
    rooms = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    assert set(order) <= rooms
    for name in MODULES:
        parts = name.split(".")
        if parts[0] != package or len(parts) < 3 or parts[1] not in order:
            continue
        above = order[: order.index(parts[1])]
        for other in imports(name):
            there = other.split(".")
            assert there[0] != package or len(there) < 2 or there[1] not in above, f"{name} imports {other}"


def test_the_harness_names_no_strategy() -> None:
    from stratbench.strategies.registry import available

    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())) if name.startswith("harness.") else ():
            # "ps" is a role of tasks too.
            if isinstance(node, ast.Compare) and "role" not in ast.unparse(node):
                constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                assert not constants & set(available()), f"{path}: {ast.unparse(node)}"


def test_the_top_of_each_package_is_a_table_of_contents() -> None:
    for package in PACKAGES:
        entries = [path for path in (ROOT / package).iterdir() if not path.name.startswith("__")]
        assert len(entries) <= 12, sorted(path.name for path in entries)
