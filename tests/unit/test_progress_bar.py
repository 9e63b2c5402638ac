"""Where there is no terminal: a line a minute, with the speed that there was."""

import pytest
from tqdm import tqdm

from dynamics.progress_bar import ProgressBar


class Clock:
    """Seconds that pass when told so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_a_steady_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ProgressBar("run", 3600, "step", clock=clock) as bar:
        for _ in range(1920):
            clock.now += 0.0625
            bar.update(facts={"raw v": "0.5"})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run: 960/3600 steps, 16 steps/s, 02:45 left, raw v 0.5"
    assert lines[1:] == 2 * ["run: 1920/3600 steps, 16 steps/s, 01:45 left, raw v 0.5"], "a minute, and the last word"


def test_what_pauses_is_no_part_of_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ProgressBar("run", None, "row", done=100, clock=clock) as bar:
        for _ in range(10):
            clock.now += 1
            with bar.paused():
                clock.now += 50
            bar.update(2)
    assert capsys.readouterr().err == "run: 120 rows, 2 rows/s\n"


@pytest.mark.parametrize(("show", "leave", "steps"), [(False, True, 5), (True, False, 5), (True, True, 0)])
def test_nothing_is_said_where_nothing_is_to_say(
    show: bool, leave: bool, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("run", 5, "step", show=show, leave=leave) as bar:
        for _ in range(steps):
            bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_whose_speed_leaves_pauses_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    seconds = iter(range(0, 10_000, 100))
    monkeypatch.setattr("time.time", lambda: float(next(seconds)))
    with ProgressBar("run", 4, "step") as bar:
        shown = bar._bar
        assert isinstance(shown, tqdm)
        before = shown.start_t
        with bar.paused():
            pass
        assert shown.start_t > before
        bar.update()
    assert "run" in capsys.readouterr().err
