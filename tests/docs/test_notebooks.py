"""The notebooks run on the committed results, say what their scripts say, and hold figures and no errors."""

import ast
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analysis_notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
PAIRS = pytest.mark.parametrize("name", NAMES)


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def check_outputs(notebook: nbformat.NotebookNode) -> None:
    assert figures(notebook) > 0
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_there_are_seven_pairs_and_nothing_else() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(7)]
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ipynb")) < 7e6


@PAIRS
def test_it_runs_on_the_committed_results(name: str, tmp_path: Path) -> None:
    work = tmp_path / FOLDER.name
    work.mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    shutil.copy(FOLDER / f"{name}.py", work)
    notebook = runner().executed(work / f"{name}.py")
    check_outputs(notebook)
    assert figures(notebook) == figures(committed(name))
    assert [path.name for path in work.iterdir()] == [f"{name}.py"], "a notebook writes nothing"


@PAIRS
def test_script_and_notebook_have_the_same_cells(name: str) -> None:
    pair = jupytext.read(FOLDER / f"{name}.py"), committed(name)
    script, notebook = ([(cell.cell_type, cell.source) for cell in each.cells] for each in pair)
    assert script == notebook
    for each in pair:
        assert each.metadata.kernelspec.name == "python3"
        assert each.metadata.jupytext.formats == "ipynb,py:percent"


@PAIRS
def test_the_committed_notebook_has_its_outputs(name: str) -> None:
    check_outputs(committed(name))


@PAIRS
def test_it_imports_the_package_and_computes_nothing_itself(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    found = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    found += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {module.split(".")[0] for module in found} <= {"dynamics", "pathlib", "IPython"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)], "a missing file must fail"


def test_a_missing_results_file_fails(tmp_path: Path) -> None:
    work = tmp_path / FOLDER.name
    work.mkdir()
    script = work / "00_quickstart.py"
    shutil.copy(FOLDER / script.name, script)
    with pytest.raises(Exception, match=r"merged\.nc"):
        runner().executed(script)
