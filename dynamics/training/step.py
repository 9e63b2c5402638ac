"""One optimiser step: rows -> losses -> gradient -> weights, averages, curricula."""

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dynamics.curricula import Plan
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, draw_rows
from dynamics.objectives import LossTerms, Objective
from dynamics.options import invalid
from dynamics.record import RowTable, StepRecord, summarise
from dynamics.rng import normal_rows
from dynamics.training.distributed import interleaved, largest, whole, world
from dynamics.training.optimisation import TrainingOptions
from dynamics.training.power_averages import length_in
from dynamics.training.recipe import Recipe
from dynamics.training.state import TrainState, update_emas
from dynamics.training.training_network import TrainingNetwork

Images = tuple[Tensor, Any, Tensor | None]
"""x [B, C, H, W], their condition, and e [B, C, H, W] where it is not drawn with the times."""


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is not finite; carries the step's record and the offending rows.

    The weights, and all else that changes, are those before the step.
    """

    def __init__(self, record: StepRecord, what: str, rows: list[dict[str, float]]) -> None:
        super().__init__(f"{what} is not finite at step {record.step}")
        self.step, self.record, self.what, self.rows = record.step, record, what, rows

    def add_skipped(self, in_a_row: int, in_all: int, num_steps: int) -> None:
        """Say how many steps were left out before the run was given up."""
        self.args = (f"{self}; {in_a_row} in a row, {in_all} of {num_steps} in all",)


def images(recipe: Recipe, step: int) -> Images:
    """Draw what the rows of a step have before their times: a pure function of (seed, streams, step).

    Of data that each rank draws for itself, such as latents, those of the other ranks' rows are NaN.
    """
    data, batch_size, seed = recipe.data, recipe.training.batch_size, recipe.rows_seed
    if not data.drawn_by_rank:
        return *data.batch(seed, step, batch_size), None
    here = world()
    own = slice(here.rank, None, here.size)
    x, c = data.batch(seed, step, batch_size, own)
    e = torch.full_like(x, torch.nan)
    e[own] = normal_rows(range(batch_size)[own], data.shape, seed, "noise", step)
    return x, c, e


def draw(recipe: Recipe, plan: Plan, step: int, drawn: Images | None = None) -> Rows:
    """Draw the global batch of a step: a pure function of (seed, streams, step) and the plan.

    `drawn` are its `images`.
    """
    x, c, e = drawn or images(recipe, step)
    num_gap = round(plan.gap_share * recipe.training.batch_size)
    rows = draw_rows(
        x,
        c,
        recipe.data.condition,
        equal_law=plan.equal_law,
        gap_law=plan.gap_law,
        num_gap=num_gap,
        seed=recipe.rows_seed,
        tag=step,
        e=e,
    )
    return recipe.objective.prepare(rows, recipe.rows_seed, step)


def curriculum_weights(plan: Plan, rows: Rows, raw: Tensor) -> Tensor:
    """Return alpha(t) of the r = t rows and beta of the r < t rows, [B], times what depends on their raw losses [B]."""
    n = rows.num_equal
    weights = torch.cat([plan.v_weight(rows.t[:n]), plan.u_weight(rows.t[n:], rows.r[n:])])
    return weights * plan.loss_weight(rows.t, rows.r, raw.detach())


def train_step(state: TrainState, net: TrainingNetwork, recipe: Recipe, plan: Plan, rows: Rows) -> StepRecord:
    """Do one optimiser step and return its record.

    The loss is mean_B(weight * raw / sg((raw + c)^p)): curriculum weights come after the adaptive normalisation, before
    it they would cancel (2511.19065, eq. 9).

    Args:
        state: Changed in place.
        net: The network of that state.
        recipe: What is trained, and how.
        plan: That of the step.
        rows: The global batch, from `draw`.

    Raises:
        NonFiniteLossError: before anything has changed.
    """
    began = time.perf_counter()
    state.optimizer.zero_grad(set_to_none=True)
    device, here, options = next(state.model.parameters()).device, world(), recipe.training
    now, passes = Progress(state.step, options.num_steps), options.accumulation
    shards: list[tuple[Rows, LossTerms, Tensor]] = []
    for index in range(passes):
        shard = rows.shard(index * here.size + here.rank, passes * here.size).to(device)
        # gradients become means over the ranks, and the mean of the shards' mean losses is that of the batch
        with nullcontext() if index == passes - 1 else net.alone():
            terms = recipe.objective.loss(net, shard, now)
            weight = curriculum_weights(plan, shard, terms.raw)
            loss = (weight * terms.adaptive * terms.raw).mean() / passes
            loss.backward()  # type: ignore[no-untyped-call]
        shards.append((shard, terms, weight))
    net.back_to_parts()
    _check_series(recipe.objective, shards[0][1])
    grad_norm = clip(state, options)
    record = summarise(state.step + 1, tabulate(shards), plan.series, grad_norm)
    # one rank that goes on where another stops would wait for ever
    if largest(int(not (math.isfinite(record.loss) and math.isfinite(record.grad_norm)))):
        record.step_seconds = time.perf_counter() - began
        raise NonFiniteLossError(record, "the loss or its gradient", offending_rows(rows, record.rows))
    for group in state.optimizer.param_groups:
        group["lr"] = options.rate(state.step)
    state.optimizer.step()
    update_emas(state)
    state.cells += record.cells
    pairs = zip(recipe.curricula, state.curricula, strict=True)
    state.curricula = [curriculum.observe(memory, record) for curriculum, memory in pairs]
    state.step += 1
    record.step_seconds = time.perf_counter() - began
    return record


def _check_series(objective: Objective, terms: LossTerms) -> None:
    """Refuse numbers without a unit before the first step is done, not when the run is written."""
    if set(terms.extras) != set(objective.SERIES):
        remedy = f"declare their units and texts in {type(objective).__name__}.SERIES"
        raise invalid(f"extras of {objective.kind}", sorted(terms.extras), str(sorted(objective.SERIES)), remedy)
    if wrong := {name: tuple(values.shape) for name, values in terms.extras.items() if values.shape != terms.raw.shape}:
        allowed = f"one number a row, {tuple(terms.raw.shape)}"
        raise invalid(f"extras of {objective.kind}", wrong, allowed, "give rows that have no such number a 0")


def skip(state: TrainState) -> None:
    """Go past a step that was not done, so that the next one draws other rows.

    Averages along power functions of time take the weights in once more, for time goes on.
    """
    update_emas(state, [average for average in state.emas if length_in(average) is not None])
    state.step += 1


def clip(state: TrainState, options: TrainingOptions) -> float:
    """Return the norm of the gradient over all weights, and limit it if asked to."""
    parameters = list(state.model.parameters())
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if options.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, options.clip_norm, norm)
    return float(norm)


def tabulate(shards: list[tuple[Rows, LossTerms, Tensor]]) -> RowTable:
    """Bring what the rows of a step cost to the CPU, with one transfer from the device; all ranks' rows in order."""
    is_v = torch.cat([torch.arange(len(rows)) < rows.num_equal for rows, _, _ in shards])
    parts = [
        {
            "t": rows.t,
            "gap": rows.t - rows.r,
            "raw": terms.raw,
            "adaptive": terms.adaptive,
            "weight": weight,
            "target_norm": terms.target_norm,
            "du_dt_norm": terms.du_dt_norm,
            **terms.extras,
        }
        for rows, terms, weight in shards
    ]
    table = torch.stack([torch.cat([part[name] for part in parts]) for name in parts[0]]).detach().double().cpu()
    columns = interleaved(torch.cat([is_v.unsqueeze(0), table]), len(shards))
    return RowTable.of(dict(zip(("is_v", *parts[0]), columns, strict=True)), tuple(shards[0][1].extras))


def offending_rows(rows: Rows, table: RowTable) -> list[dict[str, float]]:
    """List the rows of the batch whose loss is not finite, or else the ten of largest loss, with what explains them."""
    norms = torch.where(table.is_v, math.nan, table.du_dt_norm)
    columns = {"t": rows.t, "r": rows.r, "raw": table.raw, "du_dt_norm": norms}
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    listed: list[dict[str, float]] = [
        {"row": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(values)
    ]
    broken = [row for row in listed if not math.isfinite(row["raw"])]
    return broken or sorted(listed, key=lambda row: -row["raw"])[:10]
