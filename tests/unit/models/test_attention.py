"""Attention under forward-mode differentiation: what is chosen by name, and what is refused.

The kernel of jvp_flash_attention needs a GPU. A stand-in of the same signature and the same demands takes its place:
what is tested is the choice, the layout and the scale, not the kernel.
"""

import sys
from pathlib import Path

import pytest
import torch
from builders import network, recipe, state_of

from dynamics.cli import doctor
from dynamics.models import DiTOptions, MLPOptions, ModelOptions, Network
from dynamics.models.attention import DUAL_ATTENTIONS, attend, check_dual_attention
from dynamics.training import TrainingNetwork, TrainingOptions, training_network

FLASH = TrainingOptions(derivative_attention="jvp_flash")
STAND_IN = """
import torch
import torch.autograd.forward_ad as forward_ad

class JVPAttn(torch.autograd.Function):
    calls = []

    @staticmethod
    def forward(q, k, v, q_t, k_t, v_t, scale):
        assert all(a.is_contiguous() for a in (q, k, v, q_t, k_t, v_t)), "the kernel reads memory in order"
        assert q.shape[-1] in {16, 32, 64, 128, 256}
        JVPAttn.calls.append((tuple(q.shape), scale))
        p = ((q @ k.mT) * scale).softmax(-1)
        s = (q_t @ k.mT + q @ k_t.mT) * scale
        return p @ v, ((p * (s - (p * s).sum(-1, keepdim=True))) @ v + p @ v_t,)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.save_for_forward(outputs[1][0])

    @staticmethod
    def jvp(ctx, *tangents):
        return FACTOR * ctx.saved_for_forward[0], None

    @staticmethod
    def fwd_dual(q, k, v, attn_mask=None, dropout_p=0.0, causal=False, sm_scale=None):
        tangents = [forward_ad.unpack_dual(a).tangent for a in (q, k, v)]
        return JVPAttn.apply(q, k, v, *tangents, sm_scale)[0]
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "jvp_flash_attention"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "jvp_attention.py").write_text(STAND_IN.replace("FACTOR", "1.0"))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("jvp_flash_attention", "jvp_flash_attention.jvp_attention"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder / "jvp_attention.py"


@pytest.mark.parametrize(("dim", "width"), [(32, 16), (24, 16), (40, 32)])
def test_the_kernel_gets_dual_numbers_as_it_wants_them(stand_in: Path, dim: int, width: int) -> None:
    model, stream = network(DiTOptions(dim=dim, depth=2, heads=2), (1, 16, 8)), torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 3, 1, 16, 8, generator=stream, dtype=torch.float64)
    t = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    math_pass, kernel_pass = (
        Network(model, attention=name).jvp(z, t, t / 2, torch.arange(3), v) for name in ("math", "jvp_flash")
    )
    from jvp_flash_attention.jvp_attention import JVPAttn  # type: ignore[import-not-found]

    assert JVPAttn.calls == [((3, 2, 32, width), (dim // 2) ** -0.5)] * 2
    for a, b in zip(kernel_pass, math_pass, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    # the choice ends with the pass
    q = torch.randn(1, 1, 32, 16)
    torch.func.jvp(attend, (q, q, q), (q, q, q))
    assert len(JVPAttn.calls) == 2


def test_what_does_not_work_here_is_refused(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(tokens: int, device: str, match: str) -> None:
        with pytest.raises(ValueError, match=rf"training.derivative_attention: received 'jvp_flash'; allowed: {match}"):
            check_dual_attention("jvp_flash", tokens, torch.device(device))

    check_dual_attention("math", 16, torch.device("cpu"))
    check_dual_attention("jvp_flash", 256, torch.device("cuda"))
    refused(256, "cpu", "math on cpu: the kernel needs a CUDA GPU; remedy: choose math")
    for tokens in (16, 48, 196):
        refused(tokens, "cuda", f"math for {tokens} tokens")
    refused(0, "cuda", "math for a network without attention")
    monkeypatch.setattr("dynamics.models.attention.find_spec", lambda name: None)
    refused(256, "cuda", "math where the package jvp_flash_attention is not installed; remedy: pip install")


def training(model: ModelOptions) -> TrainingNetwork:
    return TrainingNetwork(state_of(recipe(), model), FLASH)


def test_training_refuses_before_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"training.derivative_attention: received 'jvp_flash'"):
        training(DiTOptions(dim=16, depth=1, heads=2))
    with pytest.raises(ValueError, match="a network without attention"):
        training(MLPOptions(dim=16, depth=1))
    with pytest.raises(ValueError, match="math with compile"):
        TrainingOptions(derivative_attention="jvp_flash", compile=True)
    with pytest.raises(ValueError, match="derivative_attention"):
        TrainingOptions.model_validate({"derivative_attention": "flash"})


def test_new_options_leave_the_ids_of_earlier_runs_alone() -> None:
    text = TrainingOptions().model_dump_json()
    assert "recompute" not in text
    assert "derivative_attention" not in text


def test_the_doctor_judges_each_choice(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {name: doctor.derived_attention(name) for name in DUAL_ATTENTIONS}
    assert {name: found.status for name, found in findings.items()} == {"math": "ok", "jvp_flash": "absent"}
    assert "needs a CUDA GPU" in findings["jvp_flash"].detail
    monkeypatch.setattr(doctor, "check_dual_attention", lambda *a: None)
    assert doctor.derived_attention("jvp_flash").status == "ok"
    stand_in.write_text(STAND_IN.replace("FACTOR", "1.02"))
    for name in ("jvp_flash_attention", "jvp_flash_attention.jvp_attention"):
        monkeypatch.delitem(sys.modules, name)
    wrong = doctor.derived_attention("jvp_flash")
    assert wrong.status == "FAILED"
    assert float(wrong.detail.split(": ")[1].split()[0]) == pytest.approx(0.02, rel=0.3)
    # training does not begin with it either
    monkeypatch.setattr(training_network, "check_dual_attention", lambda *a: None)
    with pytest.raises(ValueError, match=r"received 'jvp_flash, which is .* off the explicit product.*choose math"):
        training(DiTOptions(dim=16, depth=1, heads=2))
    named = {found.subject for found in doctor.examine(compile_too=False)}
    assert {"attention", "attention math", "attention jvp_flash"} <= named
