"""Correlation between feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.feature_map import example_maps
from mmkd.library.losses.port import same_shape


class PearsonMap(Loss):
    """One minus the correlation of each channel over the positions of a batch, the PKD of detectors (Cao et al., 2022).

    `mean_c (1 - r_c)` with r_c Pearson's correlation between the student's and the teacher's channel c over all
    samples and positions. It is half the mean squared error between maps whose channels are brought to mean zero and
    variance one over the batch; a sample's loss is its share of that. The size of features, which differs between
    kinds of detectors, does not matter, nor do channels that dominate the others.

    The port of it in MMRazor divides by the unbiased deviation, `1 - 1 / M` times this for M positions in the batch,
    and resizes the student (here a projector, `core.conv`). Not to be mixed up with the PKD of BERT (Sun et al.,
    2019), which is `core.patient`.

    Shape: student, teacher `[B, C, H, W]` -> `[B]`; the mean lies between 0 and 2.

    Raises:
        GraphError: the shapes differ, or are no maps.
    """

    coupled = True

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_shape("core.pearson_map", student, teacher)
        if student.dim() != 4:
            raise GraphError(f"needs maps [B, C, H, W], not {list(student.shape)}", where="core.pearson_map")
        if not student.numel():
            return student.flatten(1).sum(1)
        s, t = (x - x.mean((0, 2, 3), keepdim=True) for x in (student, teacher))
        s, t = (F.normalize(x.transpose(0, 1).flatten(1), dim=1) for x in (s, t))
        shares: Tensor = (s - t).square().mean(0).view(len(student), -1).sum(1)
        return shares * (len(student) / 2)

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 6)
