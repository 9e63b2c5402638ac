"""Drawing one step ahead changes when, and nothing else."""

import threading

import pytest

from dynamics.training.ahead import Ahead


@pytest.mark.parametrize("on", [True, False])
def test_every_step_gets_its_own(on: bool) -> None:
    drawn: list[int] = []
    with Ahead(lambda step: drawn.append(step) or step * 10, num_steps=6, on=on) as ahead:
        assert [ahead.take(step) for step in (2, 3, 4)] == [20, 30, 40]
        assert ahead.take(5) == 50
    assert drawn == [2, 3, 4, 5], "no step twice, and none after the last"


def test_the_next_is_drawn_meanwhile_by_another_thread() -> None:
    begun, threads = threading.Event(), []

    def draw(step: int) -> int:
        threads.append(threading.current_thread().name)
        if step == 1:
            begun.set()
        return step

    with Ahead(draw, num_steps=9, on=True) as ahead:
        ahead.take(0)
        assert begun.wait(10), "before anybody has asked for it"
    assert threads[0] != threads[1]


def test_a_jump_is_drawn_anew_and_errors_reach_who_asks() -> None:
    def draw(step: int) -> int:
        if step == 7:
            raise ValueError("damaged")
        return step

    with Ahead(draw, num_steps=9, on=True) as ahead:
        assert (ahead.take(0), ahead.take(5), ahead.take(6)) == (0, 5, 6)
        with pytest.raises(ValueError, match="damaged"):
            ahead.take(7)
