"""The shape of the source: files by folder, circles of imports, what each decoding method imports, lines, signatures.

    python tests/benchmarks/house.py [CHECKOUT]

Imports inside of functions and under TYPE_CHECKING count. A name that a package re-exports counts as an import of the
file that defines it. What a method imports is counted among the files that are about decoding, itself with them.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

PARTS = {
    "sdk": "skipstone",
    "exporters": "skipstone.exporters",
    "runtime": "skipstone.runtime",
    "quant": "skipstone.quant",
    "devices": "skipstone.devices",
}
# Folders of the runtime that are about decoding, in this version and in 0.4.0.
DECODING = ("methods", "decoding", "costs", "drafters", "depth", "approximate", "planning", "verification")


class Source:
    """All modules of a checkout, and which imports which."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trees: dict[str, ast.Module] = {}
        self.paths: dict[str, Path] = {}
        for folder, package in PARTS.items():
            for path in sorted((root / folder).rglob("*.py")):
                parts = path.relative_to(root / folder).with_suffix("").parts
                name = ".".join([package, *(part for part in parts if part != "__init__")])
                self.trees[name], self.paths[name] = ast.parse(path.read_text(encoding="utf-8")), path

    def is_package(self, name: str) -> bool:
        return self.paths[name].name == "__init__.py"

    def _home(self, module: str, name: str) -> str:
        """Return the module that defines what `from module import name` gives."""
        if f"{module}.{name}" in self.paths and name not in self._exported.get(module, {}):
            return f"{module}.{name}"
        if module in self.paths and self.is_package(module) and name in self._exported[module]:
            return self._home(self._exported[module][name], name)
        return module

    @cached_property
    def _exported(self) -> Mapping[str, Mapping[str, str]]:
        return {
            package: {
                alias.asname or alias.name: node.module or ""
                for node in ast.walk(self.trees[package])
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for package in self.paths
            if self.is_package(package)
        }

    @cached_property
    def imports(self) -> Mapping[str, set[str]]:
        """The modules that each module imports, without packages."""
        return {
            module: {home for home in self._imported(tree) if home in self.paths and not self.is_package(home)}
            - {module}
            for module, tree in self.trees.items()
            if not self.is_package(module)
        }

    def _imported(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from (self._home(node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    def closure(self, module: str) -> set[str]:
        """Return all modules that `module` imports, also by way of others, and itself."""
        reached, waiting = {module}, [module]
        while waiting:
            new = self.imports[waiting.pop()] - reached
            reached |= new
            waiting += new
        return reached

    def circles(self) -> list[list[str]]:
        """Return the sets of modules that import each other, also by way of others."""
        closures = {module: self.closure(module) for module in self.imports}
        circles = {
            tuple(sorted(other for other in closures[module] if module in closures[other])) for module in closures
        }
        return sorted(list(circle) for circle in circles if len(circle) > 1)

    def methods(self) -> Iterator[tuple[str, str]]:
        """Yield each word of `--decode` that a file of its own stands for, and its module."""
        for module in self.imports:
            if not module.startswith(tuple(f"skipstone.runtime.{folder}." for folder in DECODING)):
                continue
            for node in self.trees[module].body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith("open_") and not node.decorator_list:
                    yield node.name.removeprefix("open_"), module


def main() -> None:
    source = Source(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    folders = Counter(
        path.parent.relative_to(source.root) for name, path in source.paths.items() if path.name != "__init__.py"
    )
    print("files by folder")
    for folder, count in sorted(folders.items()):
        print(f"  {folder!s:40} {count:3}")
    circles = source.circles()
    print(f"circles of imports: {len(circles)}")
    for circle in circles:
        print("  " + ", ".join(name.removeprefix("skipstone.") for name in circle))
    print("files about decoding that the file of a method imports")
    prefixes = tuple(f"skipstone.runtime.{folder}." for folder in DECODING)
    for word, module in sorted(source.methods()):
        print(f"  {word:16} {sum(name.startswith(prefixes) for name in source.closure(module)):3}")
    product = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in source.paths.values())
    tests = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (source.root / "tests").rglob("*.py"))
    print(f"lines: product {product:,}, tests {tests:,}")
    functions = [
        (
            len((a := node.args).args) + len(a.kwonlyargs) + len(a.posonlyargs),
            node.end_lineno - node.lineno + 1,
            f"{path.relative_to(source.root)}:{node.name}",
        )
        for name, path in source.paths.items()
        for node in ast.walk(source.trees[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    most = max(functions)
    print(f"longest signature: {most[0]} parameters, {most[2]}")
    longest = max(functions, key=lambda function: function[1])
    print(f"longest function: {longest[1]} lines, {longest[2]}")


if __name__ == "__main__":
    main()
