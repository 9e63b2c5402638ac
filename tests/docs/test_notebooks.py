"""The notebooks run on the committed results, say what their scripts say, and hold figures and no errors."""

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import pytest
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from dynamics.analysis import figure_style

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analysis_notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
PAIRS = pytest.mark.parametrize("name", NAMES)


class Displayed(DisplayHook):
    """Shows the value of a cell's last line the way display() does, as a notebook would."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.display_pub.publish(format_dict, md_dict)


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """Yield the interpreter of a notebook, in this process: seven kernels would import everything seven times."""
    config = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=config, displayhook_class=Displayed)
    InteractiveShell.clear_instance()


def executed(script: Path, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run the cells of a script in its folder and return what they display; an error or a warning is raised."""
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(figure_style, "DPI", 40)  # nobody looks at them
    shell.reset()
    shown: list[Any] = []
    for cell in jupytext.read(script).cells:
        if cell.cell_type != "code":
            continue
        with warnings.catch_warnings(), capture_output() as captured:
            warnings.simplefilter("error")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", hidden)
            result = shell.run_cell(cell.source)
        result.raise_error()
        assert captured.stderr == ""
        shown += captured.outputs
    return shown


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


def kinds(shown: list[Any]) -> list[list[str]]:
    """Return the formats in which each thing was displayed."""
    return [sorted(data) for data in shown]


def check_outputs(notebook: nbformat.NotebookNode) -> None:
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_there_are_nine_pairs_and_nothing_else() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(9)]
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ipynb")) < 9e6


@PAIRS
def test_it_runs_on_the_committed_results(
    name: str, shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / FOLDER.name
    work.mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    script = work / f"{name}.py"
    script.write_bytes((FOLDER / script.name).read_bytes())
    shown = executed(script, shell, monkeypatch)
    there = [output.data for output in outputs(committed(name)) if "data" in output]
    assert kinds([output.data for output in shown]) == kinds(there), "as in the committed notebook"
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


def test_a_missing_results_file_fails(shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "00_quickstart.py"
    script.write_bytes((FOLDER / script.name).read_bytes())
    with pytest.raises(Exception, match=r"merged\.nc"):
        executed(script, shell, monkeypatch)


CELLS = """\
# %%
from pathlib import Path

class Picture:
    def _repr_png_(self):
        return b"a picture"

Picture()

# %%
Path("a").read_text()
"""


def test_the_command_fills_a_notebook_through_a_kernel_and_passes_errors_on(tmp_path: Path) -> None:
    header = (FOLDER / "00_quickstart.py").read_text().split("# %%")[0]
    script = tmp_path / "00_any.py"
    script.write_text(header + CELLS)
    with pytest.raises(Exception, match="FileNotFoundError"):
        runner().executed(script)
    (tmp_path / "a").write_text("content")
    notebook = runner().executed(script)
    check_outputs(notebook)
    assert [cell.id for cell in notebook.cells] == ["cell-0", "cell-1"]
    assert "content" in outputs(notebook)[-1].data["text/plain"]
