"""Print the figures of the code's layout for one git revision, or for two side by side.

    python tools/house_figures.py                    # the working tree
    python tools/house_figures.py d57c929            # a revision
    python tools/house_figures.py d57c929 HEAD       # two of them

Tests are left out, and experiments from the count of dictionaries of anything. A wing is a folder
or a module right below a top-level package. Imports count wherever they stand in a file.
"""

import argparse
import ast
import io
import statistics
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import TypeVar

PACKAGES = ("reduction", "trainables", "orchestrator", "analysis", "experiments")
PRODUCT = PACKAGES[:-1]
"""Where seams are to be typed; experiments holds scripts."""
UNTYPED = ("dict[str, Any]", "Mapping[str, Any]")
ROOT = Path(__file__).resolve().parents[1]

Sources = dict[str, str]
"""Path of a Python file, relative to the root of the repository -> its text."""
Trees = dict[str, ast.Module]
"""The same path -> the parsed file."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS: tuple[type[Function], ...] = (ast.FunctionDef, ast.AsyncFunctionDef)
Kind = TypeVar("Kind", bound=ast.AST)


def working_tree(root: Path) -> Sources:
    """Read the packages' files that git tracks, and the new ones that it does not ignore."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard").decode()
    paths = [path for path in listed.splitlines() if is_source(path) and (root / path).exists()]
    return {path: (root / path).read_text() for path in paths}


def revision(name: str, root: Path) -> Sources:
    """Read the packages' files as they are in a commit."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", name))) as files:
        for member in files:
            content = files.extractfile(member)
            if content is not None and is_source(member.name):
                found[member.name] = content.read().decode()
    return found


def is_source(path: str) -> bool:
    """Tell the packages' Python files from all others."""
    return path.endswith(".py") and path.split("/")[0] in PACKAGES


def git(root: Path, *words: str) -> bytes:
    """Return what a git command prints."""
    return subprocess.run(["git", "-C", root, *words], check=True, capture_output=True).stdout


def figures(sources: Sources) -> dict[str, str]:
    """Count everything: name of a figure -> its value as text."""
    trees = {path: ast.parse(text) for path, text in sorted(sources.items())}
    pairs = two_way_pairs(trees)
    classes = repeated(node.name for node in nodes(trees, ast.ClassDef))
    files = repeated(Path(path).stem for path in trees if not path.endswith("__init__.py"))
    functions = [lines_of(node) for kind in FUNCTIONS for node in nodes(trees, kind)]
    modules = [text.count("\n") for text in sources.values()]
    return {
        "two-way pairs of wings": described(len(pairs), pairs),
        "dict[str, Any] and Mapping[str, Any]": str(untyped(trees)),
        "class names used twice or more": described(len(classes), classes),
        "file names used twice or more": described(len(files), files),
        "functions": str(len(functions)),
        "lines of a function, median / p90 / max": spread(functions),
        "lines of a module, median / max": f"{statistics.median(modules):g} / {max(modules)}",
        "files": str(len(sources)),
        "lines": str(sum(modules)),
    }


def nodes(trees: Trees, kind: type[Kind]) -> Iterator[Kind]:
    """Give all nodes of a kind, in all files."""
    for tree in trees.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, kind))


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, each with how often."""
    return sorted(f"{name} x{count}" for name, count in Counter(names).items() if count > 1)


def described(count: int, which: list[str]) -> str:
    """Write a count with what it counts."""
    return f"{count} ({', '.join(which)})" if which else str(count)


def lines_of(function: Function) -> int:
    """Count a function's lines without its decorators and docstring, as the eye does."""
    first, *rest = function.body
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant) or not rest:
        return span(function)
    return span(function) - span(first)


def span(node: ast.stmt) -> int:
    """Count the lines from a statement's first to its last."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def spread(lengths: list[int]) -> str:
    """Write the median, the ninth decile and the maximum."""
    ninth_decile = sorted(lengths)[9 * len(lengths) // 10]
    return f"{statistics.median(lengths):g} / {ninth_decile:g} / {max(lengths)}"


def untyped(trees: Trees) -> int:
    """Count dictionaries of anything wherever a type is written in the product."""
    product = {path: tree for path, tree in trees.items() if path.split("/")[0] in PRODUCT}
    return sum(ast.unparse(node) in UNTYPED for node in nodes(product, ast.Subscript))


def two_way_pairs(trees: Trees) -> list[str]:
    """Return the pairs of wings of one package that import each other, lazy imports included."""
    modules = {dotted(path) for path in trees}
    arrows = set()
    for path, tree in trees.items():
        here = wing(dotted(path))
        for name in imported(tree, modules):
            there = wing(name)
            if here and there and here != there:
                arrows.add((here, there))
    wings = sorted({name for arrow in arrows for name in arrow})
    return [
        f"{one} <-> {other}"
        for one, other in combinations(wings, 2)
        if {(one, other), (other, one)} <= arrows
    ]


def dotted(path: str) -> str:
    """Return the name by which a file is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def wing(module: str) -> str | None:
    """Return the first two parts of a module's name; a package itself belongs to no wing."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else None


def imported(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Give the modules of this repository that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules or node.module in modules:
                    yield inner if inner in modules else node.module


def main() -> None:
    """Print a table with a column for each revision asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", nargs="*", help="at most two; none is the working tree")
    names = parser.parse_args().revision
    if len(names) > 2:
        parser.error("give at most two revisions")
    columns = [figures(revision(name, ROOT)) for name in names] or [figures(working_tree(ROOT))]
    for figure in columns[0]:
        print(f"{figure}: {' -> '.join(column[figure] for column in columns)}")


if __name__ == "__main__":
    main()
