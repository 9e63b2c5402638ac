"""Execute the notebooks: each NN_name.py here becomes NN_name.ipynb with its outputs. Equal results give equal files.

python analysis_notebooks              # all of them
python analysis_notebooks 01 03        # those whose names begin so
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def scripts(folder: Path = HERE) -> list[Path]:
    """Return the notebooks as scripts, in their order."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def executed(script: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs, run from the folder of its script; no times and no random names."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    where = {"metadata": {"path": str(script.parent)}}
    NotebookClient(notebook, timeout=600, record_timing=False, resources=where).execute()
    notebook.metadata = {key: notebook.metadata[key] for key in ("jupytext", "kernelspec")}
    return notebook


def main(starts: list[str]) -> None:
    """Write the .ipynb beside each script."""
    for script in scripts():
        if not starts or script.name.startswith(tuple(starts)):
            target = script.with_suffix(".ipynb")
            nbformat.write(executed(script), target)
            print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
