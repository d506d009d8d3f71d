"""The ways past a block of a residual network: He et al. 2016, section 3.2, and section 3.3 for options A and B."""

from __future__ import annotations

from .. import functional as F
from .. import nn
from ..engine import Tensor


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are new. No parameters."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"{self.new_channels}, stride={self.stride}"


def make_shortcut(in_channels: int, channels: int, stride: int, shortcut: str | bool) -> nn.Module | None:
    """The identity where shapes agree; elsewhere option A, or a projection by 1×1 (B). None in a plain network."""
    if not shortcut:
        return None
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    if shortcut == "A":
        return PaddedShortcut(channels - in_channels, stride)
    projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(channels))


def check_shortcut(network: str, shortcut: str | bool) -> str | bool:
    """`shortcut` if it is ``"A"``, ``"B"`` or False; ``"B"`` for True."""
    if shortcut not in ("A", "B", True, False):
        raise ValueError(
            f"{network}: shortcut is {shortcut!r}, and must be 'B' (projections), 'A' (no parameters) or False (plain)"
        )
    return shortcut if shortcut in ("A", "B") else "B" if shortcut else False
