"""The layout of the package: imports go one way, files and signatures stay small."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From bottom to top: each imports only from those before it. A module has the rank of the longest
# name that it starts with. The door itself, `clac_jax`, is above all and loads nothing at import.
ORDER = (
    "errors",
    "typing",
    "versions",
    "files",
    "digests",
    "journal",
    "chain",
    "stores",
    "files.huggingface",  # a language model may be in an object store
    "crystals",
    "text",
    "datasets",
    "config.effects",  # how a key is declared: encoders declare theirs next to their modules
    "config.key",
    "input_pipeline",
    "models",
    "config",
    "distributed",
    "training",
    "checkpoint",
    "reporting",
    "bucket",
    "tasks",
    "interop",
    "healing",
    "run",
    "session",
    "run_parts",
    "run_setup",
    "replay",
    "proof",
    "training_run",
    "inference",
    "evaluation",
    "index",
    "map",
    "serve",
    "supervision",
    "sweeps",
    "api",
    "cli",
    "__main__",
)

# Imported inside methods, so not part of an import cycle: readers return a Crystal, and users look
# for them on the class (`Crystal.from_cif`). An index is checked by a method as well.
LAZY = {
    *(
        ("clac_jax.crystals.crystal", f"clac_jax.crystals.{reader}")
        for reader in ("cif", "cif_writing", "objects", "reading")
    ),
    *(("clac_jax.index.store", f"clac_jax.index.{user}") for user in ("check", "search")),
}

MAX_LINES = 400
LONG_FILES = {
    "clac_jax/crystals/cif.py": "the clauses of CIF, in the order of its specification",
    "tests/browser/test_map_page.py": "one page, used as a visitor would",
    "tests/checkpoint/test_manager.py": "one folder of checkpoints in all its states",
    "tests/datasets/test_building.py": "builds of one table, disturbed in every way",
    "tests/datasets/test_materials_project_mini.py": "the claims of the data set's datasheet",
    "tools/materials_project_mini/aspects.py": "the sentences of the narratives, by aspect",
    "tools/materials_project_mini/shortcuts.py": "the sentences that a shortcut could read",
}

MAX_PARAMETERS = 6


def files_in(*folders):
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in paths if "__pycache__" not in path.parts)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, known):
    """The modules that a file imports anywhere, in functions and for annotations as well."""
    found = set()
    for node in ast.walk(parsed(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                found.add(name)
    return found - {name_of(path)}


@functools.cache
def arrows():
    """Module of the package -> the modules of the package that it imports; without the door."""
    paths = {name_of(path): path for path in files_in("clac_jax")}
    result = {name: imported(path, paths) - {"clac_jax"} for name, path in paths.items()}
    result.pop("clac_jax")
    return result


def floor_of(module):
    name = module.removeprefix("clac_jax.")
    while name not in ORDER:
        assert "." in name, f"{module} has no place in ORDER"
        name = name.rpartition(".")[0]
    return ORDER.index(name)


def test_modules_import_each_other_in_no_circle():
    left = {
        module: {target for target in targets if (module, target) not in LAZY}
        for module, targets in arrows().items()
    }
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}, "these modules import each other, or what does"


def test_packages_import_only_from_below():
    up = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        for target in targets
        if floor_of(target) > floor_of(module)
    ]
    assert up == []


def test_no_test_imports_a_test():
    paths = files_in("tests")
    names = {name_of(path).removeprefix("tests."): path for path in paths}
    names |= {name_of(path): path for path in paths}
    between = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(path, names)
        if names[name].name.startswith(("test_", "conftest"))
    ]
    assert between == []


@pytest.mark.parametrize("folder", ["clac_jax", "tests", "benchmarks", "tools"])
def test_files_are_short_or_have_a_reason(folder):
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in files_in(folder)
    }
    long = {name for name, lines in lengths.items() if lines > MAX_LINES}
    assert long == {name for name in LONG_FILES if name.startswith(f"{folder}/")}


def public_functions(node, prefix=""):
    """(name, node) of the functions and methods without an underscore, and of each `__init__`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child, f"{child.name}.")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (
            child.name == "__init__" or not child.name.startswith("_")
        ):
            yield prefix + child.name, child


def number_of_parameters(name, function):
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    is_bound = "." in name and names[:1] in (["self"], ["cls"])
    return len(names) - is_bound


def test_public_functions_take_what_they_need():
    wide = {
        f"{path.relative_to(ROOT).as_posix()}:{name}"
        for path in files_in("clac_jax")
        for name, function in public_functions(parsed(path))
        if number_of_parameters(name, function) > MAX_PARAMETERS
    }
    assert wide == set()
