"""What README and the pages of the site say: their texts, commands and blocks of Python."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
EVERYTHING = " ".join("\n".join(PAGES.values()).split())
"""All of it on one line, so that a sentence is found however it is wrapped."""


def shell_lines() -> list[str]:
    """Return every line of a shell on every page, each once and without its comment."""
    indented = [line for text in PAGES.values() for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    fenced = [block for text in PAGES.values() for block in re.findall(r"^```sh\n(.+?)^```", text, re.M | re.S)]
    lines = [*indented, *(line for block in fenced for line in block.splitlines())]
    return list(dict.fromkeys(line.split("#")[0].strip() for line in lines))


def commands(program: str) -> list[list[str]]:
    """Return the words after `program`, of every command that begins with it or runs it under another one."""
    found = [re.match(rf"(?:torchrun .+ -m |python -m )?{program} (.+)", line) for line in shell_lines()]
    return [match[1].split() for match in found if match]


def drawing() -> ModuleType:
    """Return the module that draws the figures of pages."""
    return import_module("docs.drawing")
