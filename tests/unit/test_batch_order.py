"""The order of images: every image once an epoch, and step i alone decides batch i."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.rng import _epoch_order, batch_indices

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(num_images=sizes, batch_size=st.integers(1, 90), seed=seeds)
def test_every_epoch_visits_each_image_once(num_images: int, batch_size: int, seed: int) -> None:
    num_steps = -(-3 * num_images // batch_size)
    chain = torch.cat([batch_indices(num_images, seed, step, batch_size) for step in range(num_steps)])
    for epoch in range(3):
        visited = chain[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(visited.tolist()) == list(range(num_images))


@settings(max_examples=40, deadline=None)
@given(num_images=sizes, batch_size=st.integers(1, 90), seed=seeds, order=st.permutations(range(12)))
def test_batches_do_not_depend_on_the_order_of_calls(
    num_images: int, batch_size: int, seed: int, order: list[int]
) -> None:
    forward = [batch_indices(num_images, seed, step, batch_size) for step in range(12)]
    for step in order:
        _epoch_order.cache_clear()
        assert torch.equal(batch_indices(num_images, seed, step, batch_size), forward[step])


@settings(max_examples=40, deadline=None)
@given(num_images=sizes, seed=seeds, step=st.integers(0, 50))
def test_one_large_batch_is_two_small_ones(num_images: int, seed: int, step: int) -> None:
    halves = [batch_indices(num_images, seed, 2 * step + i, 4) for i in range(2)]
    assert torch.equal(batch_indices(num_images, seed, step, 8), torch.cat(halves))


def test_seeds_and_epochs_differ() -> None:
    orders = [batch_indices(100, seed, step, 100).tolist() for seed in range(2) for step in range(2)]
    assert len({tuple(order) for order in orders}) == 4


def test_writing_into_a_batch_leaves_later_batches_alone() -> None:
    before = batch_indices(10, 0, 0, 4).clone()
    batch_indices(10, 0, 0, 4).zero_()
    assert torch.equal(batch_indices(10, 0, 0, 4), before)


@pytest.mark.parametrize(
    ("arguments", "name"), [((0, 0, 0, 1), "num_images"), ((5, 0, 0, 0), "batch_size"), ((5, 0, -1, 2), "step")]
)
def test_bad_sizes_are_refused(arguments: tuple[int, int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: received"):
        batch_indices(*arguments)
