"""Which rooms of the house may know which: rules over the graph of imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import videopoll

SOURCE = Path(videopoll.__file__).parent


def module_of(path):
    parts = ("videopoll", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_of(path): path for path in SOURCE.rglob("*.py")}


def run_at_import(tree):
    """Yield the statements that an import runs: none of functions, and none that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from run_at_import(node)


def exported_lazily(module):
    """Return where the names are that a package exports, and imports only when somebody asks for one."""
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module
        for guarded in tree.body
        if isinstance(guarded, ast.If) and guarded.orelse
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


LAZY = {module: homes for module in PATHS if (homes := exported_lazily(module))}


def home_of(package, name):
    """Return the module that a lazy package has a name from, by way of others; None if it is none of its names."""
    home = LAZY.get(package, {}).get(name)
    return home and (home_of(home, name) or home)


def imported(module):
    """Return the modules that this one names in its own imports; for a name that is exported lazily, its home."""
    names = set()
    for node in run_at_import(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            from_it = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= from_it if from_it <= set(PATHS) else from_it | {node.module}
            names |= {home for alias in node.names if (home := home_of(node.module, alias.name))}
    return names


GRAPH = {module: imported(module) for module in PATHS}


def reached(start):
    """Return all that an import of this module brings in, by whatever way. The package's own front door is left out."""
    seen, rest = set(), [start]
    while rest:
        module = rest.pop()
        if module not in seen:
            seen.add(module)
            rest.extend(GRAPH.get(module, set()) - {"videopoll"})
    return seen


def inside(room):
    return [module for module in PATHS if module == room or module.startswith(f"{room}.")]


def known(modules, *rooms):
    return {name for name in modules if any(name == room or name.startswith(f"{room}.") for room in rooms)}


@pytest.mark.parametrize("module", [*inside("videopoll.core"), *inside("videopoll.jobs")])
def test_the_core_reaches_neither_http_nor_redis(module):
    """A judgement that needs a connection could not be tested by handing values in."""
    assert not known(reached(module), "videopoll._http", "videopoll.queue", "httpx", "redis", "aiohttp")


def test_the_worker_and_the_queue_do_not_know_each_other():
    """They meet in the protocols: so a host can bring a queue, a poller and a notifier of its own."""
    for module in inside("videopoll.worker"):
        assert not known(reached(module), "videopoll.queue", "redis"), module
        assert not known(reached(module), "videopoll.video_api", "videopoll.notifiers", "videopoll._http"), module
    for module in inside("videopoll.queue"):
        assert not known(reached(module), "videopoll.worker"), module


def test_nothing_imports_the_command_line():
    """It is one host among others: what it can do, every host can."""
    for module in PATHS:
        if not module.startswith("videopoll.cli") and module != "videopoll.__main__":
            assert not known(GRAPH[module], "videopoll.cli"), module


def test_no_two_modules_import_each_other():
    for module in PATHS:
        assert all(module not in reached(other) for other in GRAPH[module] & set(PATHS) - {"videopoll"}), module


def test_a_lazy_package_hides_no_dependency_from_these_rules():
    """What is imported when it is asked for is imported all the same."""
    assert home_of("videopoll", "UltraMsgNotifier") == "videopoll.notifiers.ultramsg"
    assert "videopoll._http" in reached("videopoll.cli.channels")
