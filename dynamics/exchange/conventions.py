"""How networks of public repositories differ from ours.

What was read, to learn names, shapes and formulas (no code was taken over):

- dit: facebookresearch/DiT, models.py at ed81ce2 (Scalable Diffusion Models with Transformers, 2212.09748). It predicts
  the noise of a discrete variance-preserving schedule, t = 0..999. That is NO velocity: what comes out is a backbone to
  start training from and nothing to sample with. Its weights stay raw, so the networks agree at those t.
- sit: willisma/SiT, models.py and transport/ at 947f95b (SiT, 2401.08740). x_t = t x + (1 - t) e and the output is
  x - e: time runs the other way and the sign differs.
- repa: sihyun-yu/REPA, models/sit.py, loss.py and train.py at 90d7020 (2410.06940). z_t = (1 - t) x + t e, v = e - x:
  our conventions. Projectors of its tokens serve training alone.
- meanflow-pytorch: zhuyu-cs/MeanFlow, sit.py and loss.py at 04d183c, a port of Mean Flows (2505.13447) without qk-norm.
  z_t = (1 - t) x + t e, v = e - x, and t - r enters the second embedding: our conventions.
- alphaflow: snap-research/alphaflow, src/training/dit.py and loss.py at b0fef77 (AlphaFlow, 2510.20771), and what holds
  that network, src/training/networks.py, in yuanpengtu/TEMF, which is built on it. Our conventions: the embedding of
  the next noise label gets t - r. Latents are normalised by statistics of each position, which no single scale is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dynamics.models.dit import SIZES

Source = Literal["sit", "repa", "dit", "meanflow-pytorch", "alphaflow"]
Target = Literal["sit", "repa", "meanflow-pytorch", "alphaflow"]
Meaning = Literal["v", "u", "backbone"]


@dataclass(frozen=True)
class Convention:
    """How a public repository's network differs from ours."""

    repository: str
    """Owner and name on GitHub."""
    meaning: Meaning
    """What the imported network answers: v at every gap, u, or nothing yet."""
    embedders: tuple[str, ...]
    """Its embedder of t, and that of t - r if it has one."""
    reverses_time: bool
    """Whether t = 1 is data and the output is x - e."""
    learns_sigma: bool
    """Whether it may have twice the output channels, of which the second half is no part of the prediction."""
    latent_scale: float | None
    """What its training code multiplies latents by; None where it normalises them by statistics of each position."""
    trained_with: Mapping[str, str] = field(default_factory=dict)
    """What arguments in a training checkpoint must say: with others, the output is no velocity of the straight path."""
    within: str = ""
    """How the network's names begin in a file that holds more than it."""
    left_out: tuple[str, ...] = ()
    """How names of tensors begin that no sample needs."""

    @property
    def two_times(self) -> bool:
        return len(self.embedders) == 2


_STRAIGHT = {"path_type": "linear"}
CONVENTIONS: dict[Source, Convention] = {
    "sit": Convention(
        "willisma/SiT", "v", ("t_embedder",), True, True, 0.18215, {"path_type": "Linear", "prediction": "velocity"}
    ),
    "repa": Convention(
        "sihyun-yu/REPA", "v", ("t_embedder",), False, False, 0.18215, _STRAIGHT, left_out=("projectors.",)
    ),
    "dit": Convention("facebookresearch/DiT", "backbone", ("t_embedder",), False, True, 0.18215),
    # 0.18125 stands in its training and its evaluation
    "meanflow-pytorch": Convention(
        "zhuyu-cs/MeanFlow", "u", ("t_embedder", "r_embedder"), False, False, 0.18125, _STRAIGHT
    ),
    "alphaflow": Convention(
        "snap-research/alphaflow",
        "u",
        ("noise_labels_embedder", "noise_labels_next_embedder"),
        False,
        False,
        None,
        within="model.",
        left_out=("autoencoder.", "autoencoder_mean", "autoencoder_var", "are_ldm_stats_inited", "logvar_net."),
    ),
}

UNLIKE_OURS = {
    "shared_blocks.": "is iMF's (Lyy-iiis/imeanflow), with rotary positions, RMSNorm, SwiGLU, two heads, and tokens "
    "for t - r, guidance and class",
    "map_layer0.": "is a U-Net (such as Gsunshine/py-meanflow's), and ours is a transformer",
    ".q_norm.": "normalises queries and keys (qk_norm), as our attention does not",
}
"""What keeps public networks from being ours, by a part of their tensors' names; the first that is found is told."""

HEADS = {(size.depth, size.dim): size.heads for size in SIZES.values()} | {(12, 384): 6}
"""Attention heads of the published sizes by depth and width; the last is S of DiT and SiT. No file names them."""
