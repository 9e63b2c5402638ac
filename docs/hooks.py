"""What the site is made of beside its pages: figures, notebooks, a page of the API for every room, formulas.

A figure is drawn by the block of code above it: `![...](drawn/NAME.png)` is what the block's last line returns. So the
gallery shows the line that drew each figure, and a line that no longer works stops the build.
"""

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from types import CodeType
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import dynamics
from dynamics.analysis.plots.figures import Plot

ROOT = Path(__file__).resolve().parents[1]
DRAWN = ROOT / "build" / "docs" / "drawn"
DPI = 110
BLOCK = re.compile(r"^```python\n(?P<code>.+?)^```\n(?:\n!\[[^\]]*\]\((?:\.\./)*drawn/(?P<name>\w+)\.png\))?", re.M | re.S)
FORMULA = re.compile(r"<(span|div) class=\"arithmatex\">\\[(\[](.+?)\\[)\]]</\1>", re.S)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """Return the blocks of Python on a page that run, and the name of the figure that each draws, if it draws one."""
    return [(found["code"], found["name"]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def draw(page: Path, folder: Path) -> None:
    """Run the code of a page, from the top to its last figure, and write the figures."""
    names: dict[str, Any] = {}
    found = blocks(page)
    num_used = max(i + 1 for i, (_, figure) in enumerate(found) if figure is not None)
    for code, figure in found[:num_used]:
        body, last = _parts(code, str(page))
        exec(body, names)
        if figure is not None:
            drawn = eval(last, names)
            assert isinstance(drawn, Plot), f"{page}: the last line above {figure}.png draws no figure"
            drawn.savefig(folder / f"{figure}.png", dpi=DPI, metadata={"Software": None})


def _parts(code: str, name: str) -> tuple[CodeType, CodeType]:
    tree = ast.parse(code, name)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else ast.parse("None", mode="eval")
    return compile(tree, name, "exec"), compile(last, name, "eval")


def rooms() -> list[str]:
    """Return the packages of `dynamics` that say what is public in them, and those within `analysis`."""
    found = [module.name for module in pkgutil.walk_packages(dynamics.__path__, "dynamics.") if module.ispkg]
    return ["dynamics", *(name for name in found if hasattr(importlib.import_module(name), "__all__"))]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the rooms in the navigation."""
    assert config.nav is not None
    for part in config.nav:
        if isinstance(part, dict) and "API" in part:
            part["API"] = [{name.removeprefix("dynamics."): f"api/{name}.md"} for name in rooms()]
    return config


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, the pages of the API and the figures."""
    for notebook in sorted((ROOT / "analysis_notebooks").glob("*.ipynb")):
        where = f"analysis_notebooks/{notebook.name}"
        files.append(File(where, str(ROOT), config.site_dir, config.use_directory_urls))
    for name in rooms():
        files.append(File.generated(config, f"api/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    DRAWN.mkdir(parents=True, exist_ok=True)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        figures = [DRAWN / f"{name}.png" for _, name in blocks(page) if name is not None]
        if figures and not all(_fresh(figure, page) for figure in figures):
            draw(page, DRAWN)
        for figure in figures:
            files.append(File.generated(config, f"drawn/{figure.name}", abs_src_path=str(figure)))
    return files


def _fresh(figure: Path, page: Path) -> bool:
    sources = [page, *(ROOT / "dynamics" / "analysis").rglob("*.py"), *(ROOT / "results").glob("*/*.nc")]
    return figure.exists() and figure.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, which browsers show without a script."""
    return FORMULA.sub(lambda found: convert(found[2], display="block" if found[1] == "div" else "inline"), html)
