"""Tests of the packages themselves: what each says that it holds, and that others import nothing but its interface."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

CONTAINERS = ("minilm_core", "search", "reports")
PACKAGES = sorted(
    ".".join(file.parent.relative_to(ROOT).parts)
    for container in CONTAINERS
    for file in (ROOT / container).glob("*/__init__.py")
)
MODULES = sorted(path for top in (*CONTAINERS, "spaces") for path in (ROOT / top).rglob("*.py"))


def imports_across_packages(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the package and the name of whatever a module imports from a module of another package."""
    own = ".".join(path.relative_to(ROOT).parts[:2])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = node.module.split(".")
            package = ".".join(parts[:2])
            if len(parts) > 2 and parts[0] in CONTAINERS and package != own:
                yield from ((package, alias.name) for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_lives_in_it(package: str) -> None:
    documentation = importlib.import_module(package).__doc__
    assert documentation
    assert documentation.count(".") >= 2, "one sentence says what it holds, another what it does not"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_an_interface_is_there(package: str) -> None:
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_of_other_packages_what_they_export(path: Path) -> None:
    for package, name in imports_across_packages(path):
        assert name in importlib.import_module(package).__all__, f"{package} does not export {name}"
