"""Prints the sub-packages of each top-level package and the imports between them: `python -m tests.import_graph`.

A module that stands directly in a package counts like a sub-package. The floors are the number of sub-packages on the
longest chain of imports.
"""

from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter

import grimp

PACKAGES = ("minilm_core", "spaces", "search", "reports")


def imports_between_subpackages(package: str) -> dict[str, set[str]]:
    """Returns for each sub-package the sub-packages that it imports."""
    graph = grimp.build_graph(package)
    children = sorted(graph.find_children(package))
    for child in children:
        graph.squash_module(child)
    return {child: graph.find_modules_directly_imported_by(child) & set(children) - {child} for child in children}


def floors(imports: Mapping[str, set[str]]) -> int:
    """Returns the number of sub-packages on the longest chain of imports.

    Raises:
        CycleError: if sub-packages import one another in a circle.
    """
    heights: dict[str, int] = {}
    for child in TopologicalSorter(imports).static_order():
        heights[child] = 1 + max((heights[other] for other in imports[child]), default=0)
    return max(heights.values())


def lines() -> Iterator[str]:
    """Yields one line for each package, and one for each of its sub-packages with what it imports."""
    for package in PACKAGES:
        imports = imports_between_subpackages(package)
        num_arrows = sum(map(len, imports.values()))
        yield f"{package}: {len(imports)} sub-packages, {num_arrows} imports, {floors(imports)} floors"
        for child, imported in imports.items():
            names = ", ".join(sorted(name.removeprefix(f"{package}.") for name in imported)) or "none"
            yield f"  {child.removeprefix(f'{package}.')}: {names}"


if __name__ == "__main__":
    print("\n".join(lines()))
