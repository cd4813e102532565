"""The plan of the package: which part may import which, what is loaded when, and where the tests of a module lie."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spared_sc as sp

SOURCE = Path(sp.__file__).parent
TESTS = Path(__file__).parent
PUBLIC = ("benchmark", "datasets", "pp", "tl", "pl", "get")

BELOW = {"_kernels", "_core", "_images", "_models"}
LAYERS = {  # part -> the other parts that it may import; what is not named here lies on top
    "_kernels": set(),
    "_core": {"_kernels"},
    "_images": {"_kernels", "_core"},
    "_models": {"_kernels", "_core", "_images"},
    "datasets": BELOW,
    "pp": BELOW | {"datasets"},
    "tl": BELOW,
    "pl": BELOW,
    "get": BELOW,
}
NETWORKS = {"timm", "torch", "torch_geometric", "torchvision"}


def imported_by(path: Path) -> set[str]:
    """Full names of all that a file imports, inside functions as well."""
    found: set[str] = set()
    package = ("spared_sc", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


FILES = {path.relative_to(SOURCE).as_posix(): imported_by(path) for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("part", LAYERS)
def test_dependency_direction(part):
    for file, imported in FILES.items():
        if file.startswith(f"{part}/"):
            ours = {name.split(".")[1] for name in imported if name.startswith("spared_sc.")}
            assert ours - {"__version__"} <= LAYERS[part] | {part}, file


def test_only_models_know_networks():
    files = {file for file, imported in FILES.items() if {name.partition(".")[0] for name in imported} & NETWORKS}
    assert {file for file in files if not file.startswith("_models/")} == set()


def test_no_module_imports_itself_through_others():
    modules = {"spared_sc." + file.removesuffix(".py").replace("/", "."): imported for file, imported in FILES.items()}
    needs = {
        module: {name for name in modules if name != module and any(f"{i}.".startswith(f"{name}.") for i in imported)}
        for module, imported in modules.items()
    }
    while free := {module for module, others in needs.items() if not others}:  # peel off what needs nothing
        needs = {module: others - free for module, others in needs.items() if module not in free}
    while unused := needs.keys() - set().union(*needs.values()):  # and what nothing needs: the circles are left
        needs = {module: others for module, others in needs.items() if module not in unused}
    assert not needs


def test_no_assert_and_no_pickle():
    for file in FILES:
        text = (SOURCE / file).read_text()
        assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)], file
        assert "pickle" not in text, file


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"anndata", "matplotlib", "numba", "numpy", "pandas", "scanpy", "scipy", "spatialdata", "squidpy", "torch"}


def test_import_is_lazy():
    assert not modules_after("import spared_sc") & HEAVY
    assert not modules_after("import spared_sc as sp; sp.pp, sp.tl, sp.pl, sp.get, sp.datasets, sp.settings") & HEAVY


def test_public_functions_load_without_torch():
    every = "; ".join(f"sp.{module}.{name}" for module in PUBLIC for name in getattr(sp, module).__all__)
    assert not modules_after(f"import spared_sc as sp; {every}") & {"matplotlib", "scanpy", "squidpy", "torch"}


def test_public_names_can_be_listed():
    assert {*PUBLIC, "settings"} <= set(dir(sp))
    for module in PUBLIC:
        assert set(getattr(sp, module).__all__) <= set(dir(getattr(sp, module)))


@pytest.mark.parametrize("package", PUBLIC)
def test_a_public_function_has_its_file_and_its_tests(package):
    """`tl.complete` stands in `tl/_complete.py`, and is tested in `tests/tl/test_complete.py`."""
    names = set(getattr(sp, package).__all__)
    assert {getattr(getattr(sp, package), name).__module__ for name in names} == {
        f"spared_sc.{package}._{name}" for name in names
    }
    assert {name for name in names if not (SOURCE / package / f"_{name}.py").is_file()} == set()
    assert {name for name in names if not (TESTS / package / f"test_{name}.py").is_file()} == set()


def test_tests_mirror_the_package():
    """`tests/kernels/test_median.py` tests `_kernels/median.py`; a big module may have `test_<module>_<aspect>.py`."""
    stray = []
    for path in sorted(TESTS.rglob("test_*.py")):
        folder, tested = path.relative_to(TESTS).parent.parts, path.stem.removeprefix("test_")
        if not folder or folder[0] in ("docs", "properties", "scripts"):
            continue
        top = folder[0] if folder[0] in PUBLIC else f"_{folder[0]}"
        modules = {file.stem.removeprefix("_") for file in (SOURCE / top).joinpath(*folder[1:]).glob("*.py")}
        if not any(tested == module or tested.startswith(f"{module}_") for module in modules):
            stray.append(path.relative_to(TESTS).as_posix())
    assert not stray
