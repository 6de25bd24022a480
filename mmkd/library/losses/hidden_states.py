"""Hidden states of several layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.layer_map import LayerMap, layer_pairs
from mmkd.library.losses.port import same_shape, widen


class HiddenStates(Loss):
    """Match the hidden states of mapped layers through linear maps, token by token (Udagawa et al., 2023).

    `sum over pairs (i, j) of mean_d (W_ij s_i - t_j)_d^2`, the pairs by the layer map `layers`:

    - `each`: the layers one to one; `uniform`: spread evenly over the teacher's; `last`: the teacher's last ones;
    - `uniform_last`: each student layer both its even one and its last one; `consecutive`: a run of the teacher's.

    Where widths are equal there is no W; where they are not, each pair has its own, which is trained with the student
    and dropped at export. One layer alone is `layers: each` with lists of one. With the queries, keys and values of
    one layer in the lists it is the paper's direct transfer (DirectMiniLM); its transfer of relations is
    `core.minilm`, that of outputs `core.kl`. Read in a digest of the paper, as no code is published: that the maps are
    one per pair is ours.

    Shape: student list of `[B, L, D]`, teacher list of `[B, L, E]` -> `[B, L]`; lists of `[B, D]`, `[B, E]` -> `[B]`.

    Raises:
        GraphError: the lists do not fit the map, or values differ in more than their width.
        RecipeError: widths differ and the loss is not set up.
    """

    def __init__(self, layers: LayerMap = "uniform") -> None:
        super().__init__()
        self.layers = layers
        self.maps: nn.ModuleList | None = None

    def setup(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        pairs = layer_pairs("core.hidden_states", self.layers, len(student), len(teacher))
        widths = [(student[i][-1], teacher[j][-1]) for i, j in pairs]
        self.maps = nn.ModuleList(nn.Identity() if s == t else nn.Linear(s, t, bias=False) for s, t in widths)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        losses = []
        for k, (i, j) in enumerate(layer_pairs("core.hidden_states", self.layers, len(student), len(teacher))):
            mapped = self._mapped(k, widen(student[i]), teacher[j].shape[-1])
            s, t = same_shape("core.hidden_states", mapped, teacher[j])
            losses.append((s - t).square().mean(-1))
        return torch.stack(losses).sum(0)

    def _mapped(self, pair: int, value: Tensor, width: int) -> Tensor:
        if self.maps is None:
            if value.shape[-1] == width:
                return value
            raise RecipeError("has no maps yet", where="core.hidden_states", next="call setup(**shapes)")
        mapped: Tensor = self.maps[pair](value)
        return mapped

    def example(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        counts = {"student": 2, "teacher": 2 if self.layers == "each" else 4}
        return {side: [torch.randn(4, 5, 8, generator=generator) for _ in range(n)] for side, n in counts.items()}
