# SPDX-License-Identifier: MIT
"""Models of Hugging Face's transformers and diffusers, from configurations, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

CLASSES = 1000


def resnet(**config: Any) -> nn.Module:
    return ResNetForImageClassification(ResNetConfig(num_labels=CLASSES, **config))


def convnext(**config: Any) -> nn.Module:
    """The scale of its blocks starts at 1e-6 by default: what they compute would hardly show in the result,
    which is compared."""
    return ConvNextForImageClassification(
        ConvNextConfig(num_labels=CLASSES, layer_scale_init_value=1.0, **config))


def vit(**config: Any) -> nn.Module:
    return ViTForImageClassification(ViTConfig(num_labels=CLASSES, **config))


def unet(**config: Any) -> nn.Module:
    return UNet2DModel(in_channels=3, out_channels=3, **config)


@dataclass(frozen=True)
class Architecture:
    name: str
    norms: str
    make: Callable[..., nn.Module]
    size: int  # of an image
    training_batch: int
    inference_batch: int
    config: dict[str, Any]
    is_classifier: bool = True

    def model(self) -> nn.Module:
        return self.make(**self.config)

    def data(self, batch: int) -> tuple[dict[str, Tensor], Tensor]:
        """What the model takes, and what it shall give."""
        images = torch.randn(batch, 3, self.size, self.size)
        if self.is_classifier:
            return {"pixel_values": images}, torch.randint(CLASSES, (batch,))
        return {"sample": images, "timestep": torch.randint(1000, (batch,))}, torch.randn_like(images)


# That of google/ddpm-cifar10-32.
DDPM = {
    "sample_size": 32, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False,
    "freq_shift": 1,
}
VIT_S = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}

FULL = {
    "resnet": Architecture("ResNet-50", "batch", resnet, 224, 4, 8, {}),
    "convnext": Architecture("ConvNeXt-T", "layer", convnext, 224, 4, 8, {}),
    "vit": Architecture("ViT-S/16", "layer", vit, 224, 4, 8, VIT_S),
    "vit-b": Architecture("ViT-B/16", "layer", vit, 224, 2, 4, {}),
    "unet": Architecture("U-Net of DDPM, 32²", "group", unet, 32, 2, 4, DDPM, False),
}

SMALL = {
    "resnet": Architecture("small ResNet", "batch", resnet, 64, 4, 4, {
        "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}),
    "convnext": Architecture("small ConvNeXt", "layer", convnext, 64, 4, 4, {
        "num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]}),
    "vit": Architecture("small ViT", "layer", vit, 64, 4, 4, {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "image_size": 64}),
    "unet": Architecture("small U-Net", "group", unet, 16, 2, 2, {
        "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, False),
}
