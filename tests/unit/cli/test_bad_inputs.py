"""Bad input of every kind, over all commands: one line, exit code 2, no traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from soak.bad_inputs import INPUTS, OF_A_RUN, complaint, outcome, prepare

from dynamics.config import RunConfig


@pytest.mark.parametrize(("program", "words"), INPUTS, ids=[f"{program} {words}"[:80] for program, words in INPUTS])
def test_bad_input_is_one_line(
    program: str, words: str, tmp_path: Path, tiny: RunConfig, twin: Callable[[RunConfig], Path]
) -> None:
    prepare(tmp_path, twin(tiny) if words in OF_A_RUN else None)
    assert complaint(*outcome(program, words, tmp_path)) == ""
