"""What does one training step cost, as a ratio to a plain flow-matching step of the same rows and network?

    python benchmarks/step_cost.py --out benchmarks/results/step_cost.json

Loss and backward, no optimiser. All schemes run interleaved in one process, in an order that a fixed seed shuffles
anew in every round; times are CPU times of one thread, because wall time on shared cores varies several-fold. Peak
memory is measured in a fresh process per scheme. Multiply-adds are counted by torch's FlopCounterMode with attention
written out, so that every scheme is counted alike: "executed" as the scheme runs, "floor" without the products with a
zero tangent of the weights that torch's own linear layer executes in forward mode.
"""

import argparse
import contextlib
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import dynamics.models.attention as attention
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows, draw_rows
from dynamics.flow.times import LogitNormalPair
from dynamics.models import DiTOptions, Network, build
from dynamics.models.dit import SIZES
from dynamics.models.linear import Linear
from dynamics.objectives import Adaptive, FlowMatching, Guidance, MeanFlow, Objective
from dynamics.rng import generator

# name: network, image shape, classes, batch
MODELS = {
    "small": (DiTOptions(patch_size=2, dim=256, depth=6, heads=4), (4, 16, 16), 1000, 64),
    "digits": (DiTOptions(patch_size=2, dim=64, depth=4, heads=4), (1, 8, 8), 10, 128),
    "b4": (SIZES["B/4"], (4, 32, 32), 1000, 8),
}
GAP_SHARE = 0.25
OFF, GUIDED = Guidance(), Guidance(w=1.0, k=0.5)
ADAPTIVE = Adaptive()


# ---- the peers' ways, with the kernels they use ----------------------------------------------------------------------


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


@contextlib.contextmanager
def explicit() -> Iterator[None]:
    """Attention written out: the only kind that forward-mode differentiation takes."""
    with patch.object(attention, "attend", explicit_attention):
        yield


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """torch's own nn.Linear and attention written out, as in code that passes jvp through an ordinary DiT."""
    plain = patch.object(Linear, "forward", lambda self, x: F.linear(x, self.weight, self.bias))
    with plain, explicit():
        yield


def weighted(raw: Tensor) -> Tensor:
    return (ADAPTIVE.weight(raw) * raw).mean()


def mean_flow_target(rows: Rows, v: Tensor, du_dt: Tensor) -> Tensor:
    return (v - expand((rows.t - rows.r).clamp(0, 1), v) * du_dt).detach()


def jvp_primal(model: nn.Module, rows: Rows, guided: bool = False) -> Tensor:
    """Full-batch jvp with gradient; the prediction is its primal (py-meanflow and the official code)."""
    z, v = rows.path()
    with plain_kernels():
        if guided:
            v = guided_velocity(model, rows, z, v)
        tangents = (v, torch.ones_like(rows.t), torch.zeros_like(rows.r))
        u, du_dt = torch.func.jvp(lambda z, t, r: model(z, t, r, rows.c), (z, rows.t, rows.r), tangents)
    return weighted((u - mean_flow_target(rows, v, du_dt)).flatten(1).square().sum(1))


def jvp_then_forward(model: nn.Module, rows: Rows) -> Tensor:
    """Full-batch jvp without gradient, then an ordinary forward pass."""
    z, v = rows.path()
    with plain_kernels(), torch.no_grad():
        tangents = (v, torch.ones_like(rows.t), torch.zeros_like(rows.r))
        _, du_dt = torch.func.jvp(lambda z, t, r: model(z, t, r, rows.c), (z, rows.t, rows.r), tangents)
    u = model(z, rows.t, rows.r, rows.c)
    return weighted((u - mean_flow_target(rows, v, du_dt)).flatten(1).square().sum(1))


def guided_velocity(model: nn.Module, rows: Rows, z: Tensor, v: Tensor) -> Tensor:
    """Both guidance velocities by forward passes of their own on all rows."""
    with torch.no_grad():
        v_unc = model(z, rows.t, rows.t, rows.condition.null(rows.c))
        v_con = model(z, rows.t, rows.t, rows.c)
    return GUIDED.combine(v, v_unc, v_con, rows.t, rows.dropped)


# ---- schemes: (model, rows) -> loss ----------------------------------------------------------------------------------


def ours(model: nn.Module, rows: Rows, objective: Objective) -> Tensor:
    terms = objective.loss(Network(model), rows, Progress(0, 1))
    return (terms.adaptive * terms.raw).mean()


def flow_matching(model: nn.Module, rows: Rows) -> Tensor:
    return ours(model, replace(rows, r=rows.t, num_equal=len(rows)), FlowMatching(adaptive=ADAPTIVE))


SCHEMES: dict[str, tuple[str, Callable[[nn.Module, Rows], Tensor]]] = {
    "flow_matching": ("flow matching", flow_matching),
    "ours": ("ours", partial(ours, objective=MeanFlow(guidance=OFF))),
    "ours_guided": ("ours, guided (kappa > 0)", partial(ours, objective=MeanFlow(guidance=GUIDED))),
    "jvp_primal": ("full-batch jvp, gradient through its primal", jvp_primal),
    "jvp_then_forward": ("full-batch jvp without gradient + forward", jvp_then_forward),
    "jvp_primal_guided": ("full-batch jvp, guided by two forwards", partial(jvp_primal, guided=True)),
}


def network_and_images(name: str, seed: int) -> tuple[nn.Module, ClassLabels, Tensor, Tensor]:
    """Return a network of `MODELS` with gradients everywhere, its condition, and a batch of images and labels."""
    options, shape, num_classes, num_rows = MODELS[name]
    labels = ClassLabels(num_classes)
    model, stream = build(options, shape, labels, seed), generator(seed, "perturbation")
    with torch.no_grad():  # the zero-initialised layers would make the derivative and most gradients zero
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=stream))
    x = torch.randn(num_rows, *shape, generator=generator(seed, "x"))
    return model, labels, x, torch.randint(num_classes, (num_rows,), generator=generator(seed, "y"))


class Bench:
    """One network and one batch, and a step of every scheme on them."""

    def __init__(self, name: str, seed: int) -> None:
        self.model, labels, x, y = network_and_images(name, seed)
        law, num_gap = LogitNormalPair(), round(GAP_SHARE * len(x))
        rows = draw_rows(x, y, labels, equal_law=law, gap_law=law, num_gap=num_gap, seed=seed, tag="bench")
        self.rows = GUIDED.drop_conditions(rows, seed, 0)

    def step(self, scheme: str) -> None:
        self.model.zero_grad(set_to_none=True)
        loss = SCHEMES[scheme][1](self.model, self.rows)
        loss.backward()
        assert bool(loss.isfinite()), f"{scheme}: loss is {float(loss)}"

    def gradient(self, scheme: str) -> Tensor:
        self.step(scheme)
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def check_equivalent(bench: Bench) -> dict[str, float]:
    """Compare what is timed: schemes of one objective must have one gradient."""
    pairs = {"ours": ("jvp_primal", "jvp_then_forward"), "ours_guided": ("jvp_primal_guided",)}
    differences = {}
    for reference, others in pairs.items():
        expected = bench.gradient(reference)
        for other in others:
            differences[other] = float((bench.gradient(other) - expected).norm() / expected.norm())
            assert differences[other] < 1e-4, f"{other} is not {reference}: {differences[other]:.1e}"
    return differences


def count_flops(bench: Bench, scheme: str, floor: bool) -> int:
    """Count as executed, or with our linear layer in place of torch's (the floor of the scheme, whoever runs it)."""
    kernels = explicit if floor else plain_kernels
    with explicit(), patch.dict(globals(), plain_kernels=kernels), FlopCounterMode(display=False) as counter:
        bench.step(scheme)
    return int(counter.get_total_flops())


def time_rounds(step: Callable[[str], None], names: Sequence[str], rounds: int, seed: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each step by name, all of them once a round in an order of its own."""
    order, seconds = random.Random(seed), {name: [] for name in names}
    for index in range(rounds + 1):
        for name in order.sample(names, len(names)):
            began = time.process_time()
            step(name)
            if index:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    return seconds


def own_peak_mb() -> float:
    """Peak resident memory of this process in MB (2^20 bytes).

    ru_maxrss of a process that was started by another begins at that one's peak (Linux keeps it through vfork and
    exec), so the kernel's high-water mark of this process image is read where there is one.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_memory_mb(name: str, scheme: str, seed: int) -> float:
    command = [sys.executable, __file__, "--peak-of", scheme, "--models", name, "--seed", str(seed)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(name: str, rounds: int, seed: int) -> dict[str, object]:
    bench = Bench(name, seed)
    differences = check_equivalent(bench)
    forward = FlopCounterMode(display=False)
    with explicit(), torch.no_grad(), forward:
        bench.model(bench.rows.path()[0], bench.rows.t, bench.rows.r, bench.rows.c)
    executed, floors = ({s: count_flops(bench, s, floor) for s in SCHEMES} for floor in (False, True))
    seconds = time_rounds(bench.step, list(SCHEMES), rounds, seed)
    memory = {scheme: peak_memory_mb(name, scheme, seed) for scheme in SCHEMES}
    base = statistics.median(seconds["flow_matching"])
    schemes = {}
    for scheme, (title, _) in SCHEMES.items():
        # a round's ratio compares neighbours in time
        ratios = [a / b for a, b in zip(seconds[scheme], seconds["flow_matching"], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
        floor = floors[scheme] / floors["flow_matching"]
        ratio = statistics.median(seconds[scheme]) / base
        schemes[scheme] = {
            "title": title,
            "cpu_seconds_median": statistics.median(seconds[scheme]),
            "cpu_seconds": seconds[scheme],
            "ratio": ratio,
            "ratio_quartiles": [quartiles[0], quartiles[2]],
            "floor": floor,
            "floor_forwards": floors[scheme] / forward.get_total_flops(),
            "executed": executed[scheme] / executed["flow_matching"],
            "above_floor": ratio / floor - 1,
            "peak_memory_mb": memory[scheme],
            "memory_ratio": memory[scheme] / memory["flow_matching"],
            "gradient_difference": differences.get(scheme),
        }
    options, shape, num_classes, num_rows = MODELS[name]
    setting = {"network": options.model_dump(), "shape": shape, "num_classes": num_classes, "batch_size": num_rows}
    return {**setting, "schemes": schemes}


def provenance(args: argparse.Namespace) -> dict[str, object]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()

    return {
        "git_sha": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "../dynamics", "../benchmarks/*.py")),
        "seed": args.seed,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "gap_share": GAP_SHARE,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "cpu": cpu_name(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def show(name: str, result: dict[str, object]) -> None:
    print(f"\n{name}: batch {result['batch_size']}, shape {result['shape']}")
    head = ("scheme", "floor", "", "executed", "ratio", "quartiles", "above floor", "peak MB", "memory")
    print("{:46}{:>8} {:>6}{:>10}{:>7}{:>13}{:>13}{:>9}{:>8}".format(*head))
    for row in result["schemes"].values():  # type: ignore[attr-defined]
        low, high = row["ratio_quartiles"]
        print(
            f"{row['title']:46}{row['floor_forwards']:7.2f}F{row['floor']:7.2f}{row['executed']:10.2f}"
            f"{row['ratio']:7.2f}{low:8.2f}-{high:.2f}"
            f"{row['above_floor']:+13.0%}{row['peak_memory_mb']:9.0f}{row['memory_ratio']:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small", "digits"])
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds (one more warms up)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--peak-of", choices=SCHEMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: at least 2, quartiles need them (7 or more for numbers worth quoting)")
    torch.set_num_threads(1)
    if args.peak_of:
        bench = Bench(args.models[0], args.seed)
        for _ in range(3):
            bench.step(args.peak_of)
        print(own_peak_mb())
        return
    results = {}
    for name in args.models:
        results[name] = measure(name, args.rounds, args.seed)
        show(name, results[name])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**provenance(args), "models": results}, indent=1) + "\n")
        print(f"\nwrote {args.out}")


if __name__ == "__main__":
    main()
