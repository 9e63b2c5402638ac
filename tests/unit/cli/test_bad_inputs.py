"""Bad input of every kind, over all commands: one line, exit code 2, no traceback, and nothing made."""

from pathlib import Path

import pytest
from soak.bad_inputs import INPUTS, complaint, outcome, prepare


@pytest.mark.parametrize(("program", "words"), INPUTS, ids=[f"{program} {words}"[:80] for program, words in INPUTS])
def test_bad_input_is_one_line(program: str, words: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert complaint(*outcome(program, words, tmp_path)) == ""
