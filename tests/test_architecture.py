"""The layout: who may import whom, what `import minicnn` loads, and that each forward has its backward beside it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minicnn"

# A file imports from lower ranks, and from its own folder. What stands for a file or a folder directly in minicnn/.
RANKS = {
    0: ["allocator", "backend", "threads"],
    1: ["kernels", "cuda"],
    2: ["engine"],
    3: ["functional", "gradcheck", "metrics"],
    4: ["nn", "testing", "pth"],
    5: ["models", "optim", "data", "weights"],
    6: ["inspect", "report", "classify"],
    7: ["train", "lab", "doctor", "selfcheck", "stepping"],
    8: ["__init__"],  # `minicnn` itself: what it offers is for users, the command line, and nobody below
    9: ["cli"],
    10: ["__main__"],
}
RANK = {place: rank for rank, places in RANKS.items() for place in places}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def imports(name: str, tree: ast.AST, is_package: bool) -> Iterator[str]:
    """The full names of the modules that `tree`, the source of module `name`, imports anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) + is_package - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # a name in a package is a module of its own or something in its __init__
                yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in FILES else source


GRAPH = {name: set(imports(name, tree, FILES[name].name == "__init__.py")) for name, tree in TREES.items()}


def place(module: str) -> str:
    """The file or folder in minicnn/ that `module` belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def test_the_import_reader_reads_every_form():
    def read(module, source):
        return list(imports(module, ast.parse(source), is_package=module == "minicnn.nn"))

    assert read("minicnn.nn.module", "import cupy.cuda") == ["cupy.cuda"]
    assert read("minicnn.nn.module", "from . import layers") == ["minicnn.nn.layers"]
    assert read("minicnn.nn.module", "from .. import functional as F, nn") == ["minicnn.functional", "minicnn.nn"]
    assert read("minicnn.nn.module", "def f():\n    from ..engine import Op") == ["minicnn.engine"]
    assert read("minicnn.nn", "from .module import Module") == ["minicnn.nn.module"]
    assert read("minicnn.nn", "from .. import backend") == ["minicnn.backend"]


def test_every_place_has_a_rank():
    unranked = {place(module) for module in FILES} - set(RANK)
    assert not unranked, f"give {unranked} a rank in RANKS here, and in the design"


@pytest.mark.parametrize("module", FILES)
def test_imports_only_from_lower_ranks(module):
    here = place(module)
    for target in GRAPH[module]:
        if target.split(".")[0] != "minicnn":
            continue
        assert target in FILES, f"{module} imports {target}, which does not exist"
        there = place(target)
        assert there == here or RANK[there] < RANK[here], f"{module}, rank {RANK[here]}, imports {target}"


def test_no_circular_imports():
    try:
        list(TopologicalSorter({name: targets & set(FILES) for name, targets in GRAPH.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"circular import: {' <- '.join(error.args[1])}")


def test_cupy_is_imported_in_backend_alone():
    importers = {name for name, targets in GRAPH.items() if any(t.split(".")[0] in ("cupy", "cupyx") for t in targets)}
    assert importers == {"minicnn.backend"}


def test_imports_on_loading_are_numpy_and_the_standard_library():
    """Optional libraries are imported inside the functions that use them, in every file."""
    for name, tree in TREES.items():
        lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
        eager = ast.Module([node for node in ast.walk(tree) if isinstance(node, ast.stmt) and id(node) not in lazy], [])
        flat = ast.Module([node for node in eager.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        roots = {target.split(".")[0] for target in imports(name, flat, FILES[name].name == "__init__.py")}
        foreign = roots - set(sys.stdlib_module_names) - {"minicnn", "numpy"}
        assert not foreign, f"{name} imports {foreign} on loading"


def test_import_minicnn_loads_only_numpy_and_the_standard_library():
    script = """
import sys
import numpy.random  # Cython's own module comes with it
before = set(sys.modules)
import minicnn
assert minicnn.__file__ == sys.argv[1], minicnn.__file__
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    command = [sys.executable, "-c", script, str(PACKAGE / "__init__.py")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "minicnn" in loaded
    assert not loaded - set(sys.stdlib_module_names) - {"minicnn", "numpy"}


# ------------------------------------------------------------------------------------------------------- kernels

KERNELS = {name: tree for name, tree in TREES.items() if place(name) == "kernels"}


def passes(tree: ast.Module) -> list[ast.FunctionDef]:
    """The forward and backward functions at the top of `tree`, in their order."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [node for node in functions if node.name.endswith(("_forward", "_backward")) and node.name[0] != "_"]


def parameters(function: ast.FunctionDef) -> list[str]:
    a = function.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs)]


FAMILIES = {
    function.name: function
    for name, tree in KERNELS.items()
    if name != "minicnn.kernels.naive" and not name.startswith("minicnn.kernels.fast")
    for function in passes(tree)
}


@pytest.mark.parametrize("module", KERNELS)
def test_each_forward_is_followed_by_its_backward(module):
    names = [function.name for function in passes(KERNELS[module])]
    expected = [name.replace("_backward", "_forward") for name in names[1::2]]
    assert names[::2] == expected and len(names) % 2 == 0, f"not in pairs: {names}"


@pytest.mark.parametrize("module", KERNELS)
def test_backward_takes_the_parameters_of_its_forward_in_their_order(module):
    """``f_forward(*arrays, **params)`` and ``f_backward(grad_output, saved, needs, **params)``."""
    functions = passes(KERNELS[module])
    for forward, backward in zip(functions[::2], functions[1::2], strict=True):
        grad_output, _saved, needs, *rest = parameters(backward)
        assert (grad_output, needs) == ("grad_output", "needs"), backward.name
        assert [name for name in parameters(forward) if name in rest] == rest, backward.name


@pytest.mark.parametrize("module", [m for m in KERNELS if m == "minicnn.kernels.naive" or ".fast." in m])
def test_other_implementations_have_the_signatures_of_the_array_neutral_ones(module):
    for function in passes(KERNELS[module]):
        assert function.name in FAMILIES, f"{module}.{function.name} has no array-neutral form"
        if function.name.endswith("_forward"):
            assert parameters(function) == parameters(FAMILIES[function.name]), f"{module}.{function.name}"


def test_there_are_kernels_to_check():
    assert {"add_forward", "conv2d_forward", "conv2d_backward", "max_pool2d_forward"} <= set(FAMILIES)
