"""What the site is made of beside its pages: figures, notebooks, a page of the API for every room, formulas."""

import importlib
import pkgutil
import re
from pathlib import Path

from drawing import blocks, draw
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import dynamics

ROOT = Path(__file__).resolve().parents[1]
DRAWN = ROOT / "build" / "docs" / "drawn"
OPEN = ("dynamics.analysis.plots", "dynamics.attach")
"""Modules with a page of the API of their own."""
SHOWN = {"findings.md": "results/FINDINGS.md", "log.md": "experiments/LOG.md", "security.md": "SECURITY.md"}
"""Files of the repository that are pages of the site."""
LINKS = {
    "../experiments/LOG.md": "log.md",
    "../analysis_notebooks": "analysis_notebooks/00_quickstart.ipynb",
    "docs/trust.md": "trust.md",
}
"""Their links to files, as pages of the site."""
FORMULA = re.compile(r"<(span|div) class=\"arithmatex\">\\[(\[](.+?)\\[)\]]</\1>", re.DOTALL)


def rooms() -> dict[str, str]:
    """Return the page of every room by its name: what the room says is public, else its modules one after another."""
    pages = {"dynamics": "# dynamics\n\n::: dynamics\n"}
    for room in pkgutil.walk_packages(dynamics.__path__, "dynamics."):
        if room.name == "dynamics.cli" or not (room.ispkg or room.name in OPEN):
            continue
        package = importlib.import_module(room.name)
        parts = [f"# {room.name}\n\n::: {room.name}\n"]
        if not hasattr(package, "__all__"):
            modules = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
            deeper = "    options: { heading_level: 3 }\n"
            parts += [f"## {module}\n\n::: {room.name}.{module}\n{deeper}" for module in modules]
        pages[room.name] = "\n".join(parts)
    return pages


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
    for name, content in rooms().items():
        files.append(File.generated(config, f"api/{name}.md", content=content))
    DRAWN.mkdir(parents=True, exist_ok=True)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        figures = [DRAWN / f"{name}.png" for _, name in blocks(page) if name is not None]
        if not all(_fresh(figure, page) for figure in figures):
            draw(page, DRAWN)
        for figure in figures:
            files.append(File.generated(config, f"drawn/{figure.name}", abs_src_path=str(figure)))
    return files


def _fresh(figure: Path, page: Path) -> bool:
    sources = [page, *(ROOT / "dynamics" / "analysis").rglob("*.py"), *(ROOT / "results").glob("*/*.nc")]
    return figure.exists() and figure.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show a file of the repository where a page stands for one."""
    shown = SHOWN.get(page.file.src_uri)
    if shown is None:
        return markdown
    text = (ROOT / shown).read_text(encoding="utf-8")
    for link, target in LINKS.items():
        text = text.replace(f"]({link})", f"]({target})")
    return text


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, which browsers show without a script."""
    return FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    if found[1] == "span":
        return convert(found[2])
    return f'<div class="formula">{convert(found[2], display="block")}</div>'
