"""One optimiser step: rows -> losses -> gradient -> weights, averages, curricula."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from dynamics.curricula import Curriculum, Plan
from dynamics.data import DataSource
from dynamics.flow.path import Velocity
from dynamics.flow.rows import Rows, draw_rows
from dynamics.models import Model
from dynamics.models.attention import check_dual_attention, prove_dual_attention
from dynamics.models.recompute import recomputing
from dynamics.objectives import CorruptedMeanFlow, Derivative, LossTerms, Objective, total_derivative
from dynamics.rng import generator, normal_rows
from dynamics.training import cells
from dynamics.training.cells import RowTable
from dynamics.training.distributed import interleaved, largest, whole, world
from dynamics.training.monitor import by_gap
from dynamics.training.options import TrainingOptions
from dynamics.training.record import GAP_BINS, StepRecord
from dynamics.training.state import TrainState, update_emas

Images = tuple[Tensor, Tensor, Tensor | None]
"""x [B, C, H, W], y [B], and e [B, C, H, W] where it is not drawn with the times."""


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is not finite; carries the step's record and the offending rows.

    The weights, and all else that changes, are those before the step.
    """

    def __init__(self, record: StepRecord, what: str, rows: list[dict[str, float]]) -> None:
        super().__init__(f"{what} is not finite at step {record.step}")
        self.step, self.record, self.what, self.rows = record.step, record, what, rows


@dataclass(frozen=True)
class Passes:
    """The two ways through the network: with gradient, and with the forward-mode derivative."""

    u: Velocity
    du_dt: Derivative
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    """Context of passes whose gradients stay on this rank: more of the same step follow."""
    in_step: bool = False
    """Whether all ranks must make the same passes, because each holds a part of the weights."""


def passes(model: Model, options: TrainingOptions) -> Passes:
    """Return the network's passes, under autocast or compiled if asked; the derivative is always float32.

    Raises:
        ValueError: The attention that the derivative should take does not work here, or works wrongly.
    """
    device = next(model.parameters()).device
    check_dual_attention(options.derivative_attention, model.num_tokens, device)
    prove_dual_attention(options.derivative_attention, device)
    mixed = options.precision == "bfloat16"
    compiled: torch.nn.Module = torch.compile(model) if options.compile else model  # type: ignore[assignment]
    parallel = options.parallel if world().size > 1 else None
    # the derivative goes past the wrapper, which knows nothing of forward-mode passes
    wrapper = DistributedDataParallel(compiled, forward_sync_buffers=False) if parallel == "ddp" else None
    network: Velocity = wrapper or compiled

    def u(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        with (
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed),
            recomputing(options.recompute == "blocks"),
        ):
            return network(z, t, r, y)

    derivative: Derivative = partial(total_derivative, model, attention=options.derivative_attention)
    return Passes(
        u,
        torch.compile(derivative) if options.compile else derivative,
        alone=wrapper.no_sync if wrapper else nullcontext,
        in_step=parallel == "fsdp",
    )


def images(data: DataSource, batch_size: int, seed: int, step: int) -> Images:
    """Draw what the rows of a step have before their times: a pure function of (seed, step).

    Of latents, which are large, each rank draws x and e of its own rows only, and those of the others are NaN.
    """
    if not data.drawn_by_rank:
        return *data.batch(seed, step, batch_size), None
    here = world()
    own = slice(here.rank, None, here.size)
    x, y = data.batch(seed, step, batch_size, own)
    e = torch.full_like(x, torch.nan)
    e[own] = normal_rows(range(batch_size)[own], data.shape, seed, "noise", step)
    return x, y, e


def draw(
    data: DataSource,
    plan: Plan,
    objective: Objective,
    batch_size: int,
    seed: int,
    step: int,
    *,
    drawn: Images | None = None,
) -> Rows:
    """Draw the global batch of a step: a pure function of (seed, step) and the plan; `drawn` are its `images`."""
    x, y, e = drawn or images(data, batch_size, seed, step)
    num_gap = round(plan.gap_share * batch_size)
    rows = draw_rows(x, y, equal_law=plan.equal_law, gap_law=plan.gap_law, num_gap=num_gap, seed=seed, tag=step, e=e)
    rows = objective.guidance.drop_labels(rows, data.num_classes, generator(seed, "label drop", step))
    return objective.corrupt(rows, seed, step) if isinstance(objective, CorruptedMeanFlow) else rows


def curriculum_weights(plan: Plan, rows: Rows) -> Tensor:
    """Return alpha(t) of the r = t rows and beta of the r < t rows, [B]."""
    n = rows.num_equal
    return torch.cat([plan.v_weight(rows.t[:n]), plan.u_weight(rows.t[n:], rows.r[n:])])


def train_step(
    state: TrainState,
    passes: Passes,
    objective: Objective,
    plan: Plan,
    rows: Rows,
    options: TrainingOptions,
    curricula: tuple[Curriculum, ...],
    num_classes: int,
) -> StepRecord:
    """Do one optimiser step and return its record.

    The loss is mean_B(weight * raw / sg((raw + c)^p)): curriculum weights come after the adaptive normalisation, before
    it they would cancel (2511.19065, eq. 9).

    Raises:
        NonFiniteLossError: before anything has changed.
    """
    began = time.perf_counter()
    state.optimizer.zero_grad(set_to_none=True)
    device, here = next(state.model.parameters()).device, world()
    shards: list[tuple[Rows, LossTerms, Tensor]] = []
    for index in range(options.accumulation):
        shard = rows.shard(index * here.size + here.rank, options.accumulation * here.size).to(device)
        if passes.in_step and rows.num_gap and not shard.num_gap:
            _padding(passes, shard)
        # gradients become means over the ranks, and the mean of the shards' mean losses is that of the batch
        with nullcontext() if index == options.accumulation - 1 else passes.alone():
            terms = objective.terms(passes.u, passes.du_dt, shard, num_classes)
            weight = curriculum_weights(plan, shard)
            loss = (weight * terms.adaptive * terms.raw).mean() / options.accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        shards.append((shard, terms, weight))
    grad_norm = clip(state, options)
    table = tabulate(shards)
    record = summarise(state.step + 1, table, plan, grad_norm)
    # one rank that goes on where another stops would wait for ever
    if largest(int(not (math.isfinite(record.loss) and math.isfinite(record.grad_norm)))):
        record.step_seconds = time.perf_counter() - began
        raise NonFiniteLossError(record, "the loss or its gradient", offending_rows(rows, table))
    for group in state.optimizer.param_groups:
        group["lr"] = options.learning_rate * min(1.0, (state.step + 1) / max(options.warmup_steps, 1))
    state.optimizer.step()
    update_emas(state)
    sums = cells.no_rows()
    cells.add(sums, table)
    state.cells += sums
    record.by_gap = by_gap(sums)
    state.curricula = [c.observe(s, record.raw_v) for c, s in zip(curricula, state.curricula, strict=True)]
    state.step += 1
    record.step_seconds = time.perf_counter() - began
    return record


def skip(state: TrainState) -> None:
    """Go past a step that was not done, so that the next one draws other rows."""
    state.step += 1


def _padding(passes: Passes, shard: Rows) -> None:
    """Make the pass of the derivative that the other ranks make and this one, without any r < t row, need not."""
    row = shard.part(0, 1)
    z, v = row.path()
    passes.du_dt(z, row.t, row.r, row.y, v)


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
            "raw": terms.raw.detach(),
            "adaptive": terms.adaptive,
            "weight": weight,
            "target_norm": terms.target_norm,
            "du_dt_norm": pad(terms.du_dt_norm, (rows.num_equal, 0)),
        }
        for rows, terms, weight in shards
    ]
    table = torch.stack([torch.cat([part[name] for part in parts]) for name in parts[0]]).double().cpu()
    is_v, *columns = interleaved(torch.cat([is_v.unsqueeze(0), table]), len(shards))
    return RowTable(is_v.bool(), **dict(zip(parts[0], columns, strict=True)))


def summarise(step: int, table: RowTable, plan: Plan, grad_norm: float) -> StepRecord:
    """Reduce the rows of a step to its record."""
    is_v, raw, weighted, weight = table.is_v, table.raw, table.weighted, table.weight
    edges = torch.linspace(0, 1, GAP_BINS + 1, dtype=torch.float64)
    counts = torch.histc(table.gap[~is_v], bins=GAP_BINS, min=float(edges[0]), max=float(edges[-1]))

    def mean(values: Tensor) -> float:
        return float(values.mean()) if len(values) else math.nan

    return StepRecord(
        step=step,
        loss=float(weighted.mean()),
        raw_v=mean(raw[is_v]),
        raw_u=mean(raw[~is_v]),
        weighted_v=mean(weighted[is_v]),
        weighted_u=mean(weighted[~is_v]),
        total_v_weight=float(weight[is_v].sum()) / len(weight),
        total_u_weight=float(weight[~is_v].sum()) / len(weight),
        du_dt_norm=mean(table.du_dt_norm[~is_v]),
        grad_norm=grad_norm,
        gap_count=[int(c) for c in counts],
        series=dict(plan.series),
    )


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
