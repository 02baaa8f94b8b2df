"""Checkpoints in the published formats, with random weights."""

from __future__ import annotations

import torch

State = dict[str, torch.Tensor]
HEADS = 4


def superpoint_state(
    channels: tuple[int, ...] = (4, 4, 8, 8, 8, 8, 16, 16), head: int = 16, width: int = 16
) -> State:
    """Random tensors with the names of superpoint_v1.pth, of any width."""
    generator = torch.Generator().manual_seed(1)
    names = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")
    shapes = dict(zip(names, zip(channels, (1, *channels[:-1]), strict=True), strict=True))
    shapes |= {"Pa": (head, channels[-1]), "Pb": (65, head)}
    shapes |= {"Da": (head, channels[-1]), "Db": (width, head)}
    state: State = {}
    for name, (outputs, inputs) in shapes.items():
        kernel = 1 if name in ("Pb", "Db") else 3
        shape = (outputs, inputs, kernel, kernel)
        deviation = (2 / (inputs * kernel**2)) ** 0.5
        state[f"conv{name}.weight"] = torch.randn(shape, generator=generator) * deviation
        state[f"conv{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return state


def superglue_state(width: int = 16, encoder: tuple[int, ...] = (8, 16), depth: int = 2) -> State:
    """Random tensors with the names of superglue_outdoor.pth, of any width; 1×1 convolutions."""
    generator = torch.Generator().manual_seed(2)
    state: State = {"bin_score": torch.tensor(0.6)}

    def conv(name: str, outputs: int, inputs: int) -> None:
        deviation = inputs**-0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 1, generator=generator) * deviation
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    def mlp(name: str, widths: tuple[int, ...]) -> None:
        for i in range(1, len(widths)):
            conv(f"{name}.{3 * (i - 1)}", widths[i], widths[i - 1])
            if i < len(widths) - 1:
                norm = f"{name}.{3 * (i - 1) + 1}"
                for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
                    state[f"{norm}.{part}"] = torch.rand(widths[i], generator=generator) + low
                state[f"{norm}.running_var"] = torch.rand(widths[i], generator=generator) + 0.5
                state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    mlp("kenc.encoder", (3, *encoder, width))
    for i in range(depth):
        for j in range(3):
            conv(f"gnn.layers.{i}.attn.proj.{j}", width, width)
        conv(f"gnn.layers.{i}.attn.merge", width, width)
        mlp(f"gnn.layers.{i}.mlp", (2 * width, 2 * width, width))
    conv("final_proj", width, width)
    return state
