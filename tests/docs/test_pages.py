"""Every command of README and site exists with every flag it shows, and every block of Python runs."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from written import PAGES, ROOT, commands, drawing, shell_lines

from dynamics import cli
from dynamics.analysis import plots
from dynamics.cli.experiments import main as sweeps
from dynamics.cli.sweep_commands import VERBS
from dynamics.config import RunConfig
from dynamics.data.vae import import_torchvision
from dynamics.runner import run

COMMANDS, SWEEPS = commands("dynamics"), commands("experiments")
ALONE = {"list", "findings"}
"""Words of sweeps that need no experiment."""
SLOW = "docs/gallery.md"
"""Building the site runs it, and takes a quarter of a minute for it."""
HELPERS = {"save"}
"""What is public in plots and draws nothing."""


def check_flags(words: list[str], shown: str) -> None:
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", shown), flag


def test_every_command_and_every_verb_is_shown() -> None:
    assert {words[0] for words in COMMANDS} == set(cli.COMMANDS)
    assert {words[1] for words in SWEEPS if words[0] not in ALONE} == set(VERBS)
    assert {words[0] for words in SWEEPS if words[0] in ALONE} == ALONE


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_every_flag_of_a_command_is_in_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    preset = words[1:2] if words[0] == "train" else []
    with pytest.raises(SystemExit) as stop:
        cli.main([words[0], *preset, "--help"])
    assert stop.value.code == 0
    check_flags(words, capsys.readouterr().out)


@pytest.mark.parametrize("words", [words for words in SWEEPS if words != ["list"]], ids=shlex.join)
def test_every_flag_of_a_sweeps_command_is_in_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sweeps("experiments", [*(words[:1] if words[0] in ALONE else words[:2]), "--help"])
    assert stop.value.code == 0
    check_flags(words, capsys.readouterr().out)


def test_make_targets_benchmarks_and_extras_exist() -> None:
    lines = shell_lines()
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert targets >= {"demo", "test", "docs", "findings"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for text in PAGES.values():
        for script in re.findall(r"python (benchmarks/\w+\.py)", text):
            assert (ROOT / script).is_file(), script
        for extra in re.findall(r"\.\[(\w+)\]", text):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_every_linked_and_included_file_is_there() -> None:
    built = ("drawn/", "analysis_notebooks/")  # beside the pages on the site alone
    for page, text in PAGES.items():
        folder = (ROOT / page).parent
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            there = folder if page == "README.md" or not link.removeprefix("../").startswith(built) else ROOT
            if "drawn/" not in link:
                assert (there / link).exists(), f"{link} of {page}"
        for included in re.findall(r'^--8<-- "([^":]+)', text, re.MULTILINE):
            assert (ROOT / included).exists(), f"{included} of {page}"


def test_no_page_asks_another_host_for_anything() -> None:
    for page, text in PAGES.items():
        assert not re.findall(r"!\[[^\]]*\]\(https?:", text), page
        assert not re.findall(r"<(?:script|img|link|iframe)\b", text), page


def test_the_gallery_shows_every_figure_and_the_line_that_draws_it() -> None:
    shown = {name: code for code, name in drawing().blocks(ROOT / SLOW) if name is not None}
    assert set(shown) == set(plots.__all__) - HELPERS
    for name, code in shown.items():
        assert f"plots.{name}(" in code.splitlines()[-1], name


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```python" in text and page != SLOW])
def test_the_python_of_a_page_runs(page: str, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    for folder in (ROOT / "results").iterdir():
        if folder.name != "demo":
            (tmp_path / "results" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    if "results/demo/" in PAGES[page]:
        run(tiny, Path("results/demo/digits-meanflow"), progress=False)
    if "diffusers" in PAGES[page]:
        import_torchvision()
    names: dict[str, object] = {}
    for code, _ in drawing().blocks(ROOT / page):
        drawing().run(code, names, page)


def test_the_examples_of_the_extension_pages_are_those_that_the_tests_drive() -> None:
    shown = {name for text in PAGES.values() for name in re.findall(r'^--8<-- "tests/extension/(\w+)\.py"', text, re.M)}
    tests = [path for path in (ROOT / "tests" / "extension").glob("*.py") if path.stem.startswith("test_")]
    driven = " ".join(path.read_text() for path in tests)
    assert len(shown) == 5
    for name in shown:
        assert name in driven, name
        assert f"DYNAMICS_EXTENSIONS={name}\n" in "".join(PAGES.values())


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```py\n" in text])
def test_python_that_only_shows_something_can_be_read(page: str) -> None:
    for block in re.findall(r"^```py\n(.+?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        ast.parse(block)
