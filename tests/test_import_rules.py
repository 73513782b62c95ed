"""Rooms import one way, the training core stands on torch and numpy alone, and Flower stays at the edge."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "adamss_fl"
MODULES = sorted(LIBRARY.rglob("*.py"))

LEAVES = {"errors", "plain", "plugins"}
FLOOR = {
    "cli": 5,
    "flower_app": 5,
    "assembly": 4,
    "prediction": 4,
    "deployment": 4,
    "config": 4,
    "crossval": 4,
    "config_rules": 4,
    "run_config": 4,
    "evaluation": 3,
    "federation": 3,
    "yaml_source": 3,
    "provisioning": 3,
    "training": 2,
    "model": 1,
    "radiomics": 1,
    "survival": 1,
    "segmentation": 1,
    "imaging": 0,
    "cohort": 0,
}
"""A room imports rooms of its own floor or below, never above."""

CORE = ("model", "training", "survival", "segmentation", "radiomics", "imaging")
CORE_MAY_IMPORT = {"adamss_fl", "numpy", "torch"} | sys.stdlib_module_names
HEAVY = ("pydantic", "flwr", "ray", "SimpleITK", "radiomics", "lifelines", "scipy", "pandas", "matplotlib", "yaml")
HEAVY += ("rich", "typer")


def room_of(path: Path) -> str:
    first = path.relative_to(LIBRARY).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, at_import: bool) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import; with ``at_import`` only of those that importing the module carries out."""

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if at_import and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if at_import and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative import"
                assert child.module is not None
                yield child.module, child.lineno
                if child.module == "adamss_fl":
                    yield from ((f"adamss_fl.{alias.name}", child.lineno) for alias in child.names)
            else:
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def rooms_imported(path: Path, *, at_import: bool = False) -> Iterator[tuple[str, int]]:
    for name, line in imports(path, at_import=at_import):
        parts = name.split(".")
        if parts[0] == "adamss_fl" and len(parts) > 1 and not parts[1].startswith("__"):
            yield parts[1], line


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} - LEAVES - {"__init__"} <= set(FLOOR)


def test_rooms_import_only_their_own_floor_or_below() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} imports {room}"
        for path in MODULES
        if (here := room_of(path)) not in LEAVES | {"__init__"}
        for room, line in rooms_imported(path)
        if room in FLOOR and FLOOR[room] > FLOOR[here]
    ]
    assert wrong == []


def test_rooms_import_each_other_without_a_circle() -> None:
    graph: dict[str, set[str]] = {room: set() for room in FLOOR}
    for path in MODULES:
        if room_of(path) in FLOOR:
            graph[room_of(path)] |= {r for r, _ in rooms_imported(path, at_import=True) if r in FLOOR} - {room_of(path)}
    while free := {room for room, needs in graph.items() if not needs}:
        graph = {room: needs - free for room, needs in graph.items() if room not in free}
    assert graph == {}, "these rooms import each other in a circle"


def test_leaves_import_no_room() -> None:
    wrong = [(path.name, room) for path in MODULES if room_of(path) in LEAVES for room, _ in rooms_imported(path)]
    assert [pair for pair in wrong if pair[1] not in LEAVES] == []


def test_the_library_imports_neither_server_nor_client() -> None:
    """Only the command that starts the engine does, inside a function that runs in the engine's own process."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        for name, line in imports(path, at_import=room_of(path) == "cli")
        if name.split(".")[0] in {"server", "client"}
    ]
    assert wrong == []


def may_import_flower(path: Path) -> bool:
    return room_of(path) in {"cli", "flower_app"} or path == LIBRARY / "federation" / "flower_strategies.py"


def test_flower_is_imported_only_where_it_is_started_or_wrapped() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        if not may_import_flower(path)
        for name, line in imports(path, at_import=False)
        if name.split(".")[0] == "flwr"
    ]
    assert wrong == []


def test_flower_is_imported_only_inside_functions() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        for name, line in imports(path, at_import=True)
        if name.split(".")[0] == "flwr"
    ]
    assert wrong == []


def test_provisioning_stands_on_files_errors_and_the_standard_library_and_on_cryptography_inside_functions() -> None:
    """A hospital opens its kit on any machine, and the command line stays fast."""
    rooms = {"provisioning", "errors", "plain", "plugins", "yaml_source", "federation.files"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        if room_of(path) == "provisioning"
        for at_import in (True, False)
        for name, line in imports(path, at_import=at_import)
        if name.split(".")[0] not in sys.stdlib_module_names | (set() if at_import else {"cryptography"})
        and name != "adamss_fl"
        and not any(f"{name}.".startswith(f"adamss_fl.{room}.") for room in rooms)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", CORE)
def test_the_training_core_imports_torch_numpy_and_the_standard_library_alone(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        if room_of(path) == room
        for name, line in imports(path, at_import=True)
        if name.split(".")[0] not in CORE_MAY_IMPORT
    ]
    assert wrong == []


def test_the_training_core_imports_where_nothing_else_is_installed() -> None:
    """Holds for what the core imports in turn, too."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if room_of(path) in CORE
    ]
    program = f"""
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
