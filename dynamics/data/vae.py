"""The autoencoder between images and latents: diffusers' AutoencoderKL, from a folder or by its name on the hub."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.atomic import file_sha256
from dynamics.data.imageset import to_pixels
from dynamics.flow.path import Shape
from dynamics.options import invalid

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_EXTRA = "pip install 'meanflow-dynamics[imagenet]'"
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@dataclass(frozen=True, eq=False)
class Vae:
    """An autoencoder whose encoder gives the mean and the standard deviation of each latent number.

    Args:
        name: What records call it.
        sha256: Hash of its weights file, which identifies it.
        network: diffusers' AutoencoderKL, in evaluation mode.
        device: Where it computes.
    """

    name: str
    sha256: str
    network: Any
    device: torch.device

    def latent_shape(self, image_size: int) -> Shape:
        """Return (C, h, w) of the latents of square images.

        Raises:
            ValueError: The side is not a multiple of the encoder's downsampling.
        """
        config = self.network.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        if image_size < 1 or image_size % factor:
            raise invalid("image_size", image_size, f"a multiple of {factor} for {self.name}", "choose another size")
        return config.latent_channels, image_size // factor, image_size // factor

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Return mean and standard deviation [B, 2, C, h, w] float32 on the CPU of images uint8 [B, 3, H, W]."""
        with _float32():
            law = self.network.encode(pixels.to(self.device).float() / 127.5 - 1).latent_dist
        return torch.stack([law.mean, law.std], 1).cpu()

    @torch.no_grad()
    def decode(self, x: Tensor, scale: float) -> Tensor:
        """Return images uint8 [B, 3, H, W], where the autoencoder computes, of latents as training sees them.

        Args:
            x: [B, C, h, w], scaled.
            scale: What the encoder's output was multiplied by, see `latents.Record`.
        """
        with _float32():
            images: Tensor = self.network.decode(x.to(self.device, torch.float32) / scale).sample
        return to_pixels(images)


def load_vae(vae: Path | str, device: torch.device, name: str | None = None) -> Vae:
    """Load an autoencoder; weights are read from a safetensors file only.

    Args:
        vae: A folder with config.json and diffusion_pytorch_model.safetensors, or a name on the hub, "owner/model",
            which is downloaded unless it is in the hub's cache.
        device: Where to compute.
        name: What records call it. By default the name on the hub: the given one, or that in the folder's config; else
            the folder's name.

    Raises:
        ValueError: diffusers is missing, there is no such folder or name, or its files are missing or damaged, or of
            another class of autoencoder.
    """
    folder = Path(vae).expanduser()
    if not folder.is_dir():
        folder, name = _downloaded(str(vae)), name or str(vae)
    remedy = "pass a folder saved by AutoencoderKL.save_pretrained(folder, safe_serialization=True)"
    if missing := [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]:
        raise invalid(
            "vae", f"{folder} without {' and '.join(missing)}", f"a folder with {CONFIG} and {WEIGHTS}", remedy
        )
    network_class = _autoencoder_class()
    try:
        config = json.loads((folder / CONFIG).read_text())
        if config["_class_name"] != network_class.__name__:
            raise ValueError(f"a {config['_class_name']}")
        network = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # a damaged file can raise nearly anything
        received = f"{folder} ({type(error).__name__}: {error})"
        raise invalid("vae", received, f"a readable {network_class.__name__}", remedy) from error
    known_as = str(config.get("_name_or_path", ""))
    name = name or (known_as if _HUB_ID.fullmatch(known_as) else folder.resolve().name)
    return Vae(name, file_sha256(folder / WEIGHTS), network.float().eval().requires_grad_(False).to(device), device)


def import_torchvision() -> None:
    """Import torchvision, also where its compiled part does not fit torch: others import it for their own sake.

    Without that part, torchvision fails on two operators that it describes and nobody has declared.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _NMS)
        import torchvision  # noqa: F401


def _autoencoder_class() -> Any:
    try:
        import_torchvision()
        from diffusers import AutoencoderKL
    except ModuleNotFoundError as error:
        raise invalid("diffusers", str(error), "an installed package", _EXTRA) from error
    return AutoencoderKL


def _downloaded(name: str) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise invalid("vae", name, "an existing folder, or a name on the hub as owner/model", "check the path")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except ModuleNotFoundError as error:
        raise invalid("huggingface_hub", str(error), "an installed package", _EXTRA) from error
    except Exception as error:  # no connection, no such model, no leave: each has errors of its own
        received = f"{name} ({type(error).__name__}: {error})"
        remedy = "check the name and the connection, or copy the model to a folder and pass that"
        raise invalid("vae", received, "an existing folder, or a model that the hub gives out", remedy) from error


@contextmanager
def _float32() -> Iterator[None]:
    # TensorFloat-32, which cudnn takes by default, has 10 bits
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
