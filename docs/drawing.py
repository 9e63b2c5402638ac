"""Figures of pages: `![...](drawn/NAME.png)` is what the last line of the block of Python above it returns.

So a page shows the line that drew each of its figures, and a line that no longer works stops the build.
"""

import ast
import re
from pathlib import Path
from types import CodeType
from typing import Any

DPI = 110
BLOCK = re.compile(
    r"^```python(?: title=\"[\w.]+\")?\n(?P<code>.+?)^```\n(?:\n!\[[^\]]*\]\((?:\.\./)*drawn/(?P<name>\w+)\.png\))?",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """Return the blocks of Python on a page that run, and the name of the figure that each draws, if it draws one."""
    return [(found["code"], found["name"]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def draw(page: Path, folder: Path) -> None:
    """Run the code of a page, from the top to its last figure, and write the figures."""
    names: dict[str, Any] = {}
    found = blocks(page)
    num_used = max(i + 1 for i, (_, name) in enumerate(found) if name is not None)
    for code, name in found[:num_used]:
        figure = run(code, names, str(page))
        if name is not None:
            assert hasattr(figure, "savefig"), f"{page}: the last line above {name}.png draws no figure"
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})


def run(code: str, names: dict[str, Any], page: str) -> Any:
    """Run a block, and return the value of its last line if that is an expression."""
    body, last = _parts(ast.parse(code, page), page)
    exec(body, names)
    return eval(last, names)


def _parts(tree: ast.Module, page: str) -> tuple[CodeType, CodeType]:
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body.pop()
    value = last.value if isinstance(last, ast.Expr) else ast.Constant(None, lineno=1, col_offset=0)
    return compile(tree, page, "exec"), compile(ast.Expression(value), page, "eval")
