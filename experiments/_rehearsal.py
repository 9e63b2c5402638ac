"""Stand-ins for what paper scale needs: pictures, their latents, an autoencoder, Inception and a reference.

Real classes, real files, random weights: whatever is measured with them means nothing.
"""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dynamics.atomic import replacing
from dynamics.data import Digits
from dynamics.data.encode import EncodeOptions, encode
from dynamics.data.imageset import to_pixels
from dynamics.data.vae import import_torchvision
from dynamics.evaluation.inception import load_inception
from dynamics.evaluation.moments import compute_statistics
from dynamics.sweep.machine_files import Files

VAE = "rehearsal-vae"
SIDE = 32
CPU = torch.device("cpu")


def rehearsal(folder: Path) -> Files:
    """Make what is missing, and return where it lies."""
    images, vae, latents = folder / "images", folder / VAE, folder / "latents"
    inception, reference = folder / "inception.pth", folder / "reference.npz"
    if not reference.is_file():
        _pictures(images)
        autoencoder(vae, levels=4)
        encode(images, latents, EncodeOptions(vae=str(vae), vae_name=VAE, image_size=SIDE), CPU)
        random_inception(inception)
        compute_statistics(images / "0", load_inception(inception, CPU), reference, keep_features=True)
    return Files(latents=latents, vae=str(vae), inception=inception, reference=reference)


def _pictures(folder: Path) -> None:
    """Write digits as PNG files, 20 of each class."""
    x, y = Digits().load().reference()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(to_pixels(x[y == label][:20])):
            picture = Image.fromarray(pixels[0].numpy()).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.save(folder / str(label) / f"{i:02}.png")


def autoencoder(folder: Path, levels: int) -> None:
    """Save a tiny AutoencoderKL of four channels that makes 2^(levels - 1) times fewer pixels a side."""
    import_torchvision()
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
    )
    network.save_pretrained(folder, safe_serialization=True)


def random_inception(path: Path) -> None:
    """Save torch-fidelity's Inception with random weights, large enough for features that differ."""
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class WithoutWeights(FeatureExtractorInceptionV3):  # its constructor insists on a file
        def load_state_dict(self, state: Any) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = WithoutWeights("random", ["2048"], nothing)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    with replacing(path) as temporary:
        torch.save(network.state_dict(), temporary)
