"""Rules for the source that no linter knows: what may be imported where, sizes, and what is banned."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hyprl_jax"
MOST_LINES = 400
MOST_FUNCTION_LINES = 70
MOST_PARAMETERS = 10

# Data flows one way: a module may import from modules of earlier lines and of its own line.
LAYERS = (
    ("errors",),
    ("encoding",),
    ("runtime",),
    (
        "config",
        "config_checks",
        "devices",
        "threads",
        "mesh",
        "hosts",
        "progress",
        "interrupts",
        "versions",
        "leaves",
        "sealing",
    ),
    ("presets", "jobs"),
    ("spaces",),
    ("surfaces",),
    ("bank", "returns", "explore", "recurrence", "ordering", "pieces"),
    ("networks",),
    ("knowledge",),
    ("process",),
    ("augment", "env", "surrogate", "replay"),
    ("cold",),
    ("rollout",),
    ("players",),
    ("learner", "fitting"),
    ("program",),
    ("checkpoints", "runs"),
    ("policies", "streams"),
    ("training", "baselines", "export"),
    ("frontends",),
    ("evaluation",),
    ("bench", "sweeps"),
    ("cli",),
    ("__main__",),
)
ONLY_IN = {"flax": {"networks.py"}, "orbax": {"checkpoints.py"}}
OPTIONAL = {
    "torch",
    "optuna",
    "ray",
    "smac",
    "onnx",
    "onnxruntime",
    "flatbuffers",
    "hyperopt",
    "botorch",
    "gpytorch",
    "psutil",
}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def each_source() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def names_of_imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names imported by a file, by the statements outside functions only if asked."""
    tree = tree_of(path)
    nodes = _outside_functions(tree) if top_level_only else list(ast.walk(tree))
    return {name for node in nodes for name in imported(node)}


def _outside_functions(tree: ast.AST) -> list[ast.AST]:
    """Nodes that run on import; `if TYPE_CHECKING:` does not run."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not function and not typing_only:
            found += [node, *_outside_functions(node)]
    return found


@each_source()
def test_file_is_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree_of(path)), "say what the module is for"


@each_source()
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"
            parameters = len(node.args.args) + len(node.args.kwonlyargs)
            assert parameters <= MOST_PARAMETERS, f"{node.name} has {parameters} parameters"


@each_source()
def test_nothing_is_pickled(path: Path) -> None:
    roots = {name.partition(".")[0] for name in names_of_imports(path)}
    assert not roots & PICKLES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("read_pickle", "to_pickle")


@each_source()
def test_no_uninitialised_device_arrays(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and node.attr in ("empty", "empty_like"):
            assert ast.unparse(node.value) not in ("jnp", "jax.numpy", "jax"), "jnp.empty is uninitialised"


@each_source()
def test_imports_go_one_way(path: Path) -> None:
    level = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    assert own in level, f"give {own} a place in LAYERS"
    for name in names_of_imports(path):
        parts = name.split(".")
        if parts[0] == "hyprl_jax" and len(parts) > 1 and parts[1] in level:
            assert level[parts[1]] <= level[own], f"{own} must not import {parts[1]}"


@each_source()
def test_libraries_stay_in_their_place(path: Path) -> None:
    roots = {name.partition(".")[0] for name in names_of_imports(path)}
    for library, files in ONLY_IN.items():
        assert library not in roots or path.name in files, f"{library} belongs into {', '.join(files)} alone"
    if path.parent.name == "frontends" and path.name != "__init__.py":
        return  # subclasses of the library's own classes, imported when they are asked for
    top = {name.partition(".")[0] for name in names_of_imports(path, top_level_only=True)}
    assert not top & OPTIONAL, "import optional libraries inside the function that needs them"


@each_source()
def test_no_relative_imports_and_no_star(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert all(alias.name != "*" for alias in node.names)
