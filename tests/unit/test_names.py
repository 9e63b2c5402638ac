"""Every module of the library is found by its name alone, and every file and function can be read in one go.

KNOWN holds what breaks this today. It may only shrink: an entry that is no longer needed fails the test.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("dynamics", "experiments", "analysis_notebooks", "benchmarks", "tests")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60

KNOWN: dict[str, set[str]] = {
    "shared module names": set(),
    "shared public names": {
        *("Block", "Job", "beside", "check_files", "collect", "differences", "protocol"),
        *("record", "select"),
    },
    "long files": {"tests/unit/analysis/studies/test_study_figures.py"},
    "long functions": set(),
}


def sources(*folders: str) -> Iterator[Path]:
    """Yield the Python files of some folders."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def shared(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the files of each name that several have."""
    found = defaultdict(list)
    for name, path in names:
        found[name].append(str(path.relative_to(ROOT)))
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the modules of the library by name."""
    return ((path.stem, path) for path in sources("dynamics") if path.stem not in ("__init__", "__main__"))


def public_names() -> Iterator[tuple[str, Path]]:
    """Yield the public functions and classes of the library; commands are called as what they run."""
    for _, path in modules():
        if path.parent.name != "cli":
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name, path


def long_files() -> dict[str, int]:
    """Return the number of lines of each file that has too many."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(*FOLDERS)}
    return {name: length for name, length in lengths.items() if length > MOST_LINES}


def long_functions() -> dict[str, int]:
    """Return the number of lines of each function that has too many; decorators do not count."""
    found = {}
    for path in sources(*FOLDERS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    found[f"{path.relative_to(ROOT)}: {node.name}"] = length
    return found


def check(kind: str, found: dict[str, object]) -> None:
    """Compare what breaks a rule with what is known to."""
    assert {name: found[name] for name in found.keys() - KNOWN[kind]} == {}, f"{kind}: rename or split"
    assert KNOWN[kind] - found.keys() == set(), f"{kind}: take these out of KNOWN, they are mended"


def test_no_two_modules_have_one_name() -> None:
    check("shared module names", dict(shared(modules())))


def test_no_two_public_functions_or_classes_have_one_name() -> None:
    check("shared public names", dict(shared(public_names())))


def test_files_are_short() -> None:
    check("long files", dict(long_files()))


def test_functions_are_short() -> None:
    check("long functions", dict(long_functions()))
