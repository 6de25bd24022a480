"""A function in the span of a kernel at given points."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError

Kernel = Literal["rbf", "linear"]


class KernelMachine(mmkd.Encoder):
    """Weighted sum of kernels at support points, fitted in closed form (`procedure: {use: core.kernel_ridge}`).

    `f(x) = sum_n k(x, x_n) a_n` with `k(x, z) = exp(-gamma |x - z|^2)` or `x . z`. The points are the embeddings of the
    training samples: vectors that the batch holds in `vector`, or what another encoder, which stays as it is, makes of
    its own inputs. Points and coefficients are float64; before it is fitted it is zero everywhere.

    It publishes `logits`, the function; its argument is the tap `/argument`.

    Args:
        outputs: numbers that the function gives.
        kernel: `rbf` or `linear`.
        gamma: of `rbf`, one over twice the squared width.
        features: the encoder in front, where there is one.
        value: what is read of it, one vector a sample.

    Raises:
        GraphError: the argument is not one vector a sample.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "samples": [{"key": str(i), "vector": np.array([i % 3, -i, 0.5], np.float32)} for i in range(4)]
    }
    support: Tensor
    """Support points `[N, D]`."""

    def __init__(
        self,
        outputs: Annotated[int, Field(ge=1)] = 1,
        kernel: Kernel = "rbf",
        gamma: Annotated[float, Field(gt=0)] = 1.0,
        features: mmkd.Encoder | None = None,
        value: str = "embedding",
    ) -> None:
        super().__init__()
        self.kernel, self.gamma, self.value = kernel, gamma, value
        self.features = None if features is None else features.eval()
        self.argument = nn.Identity()
        self.coefficients = nn.Parameter(torch.zeros(0, outputs, dtype=torch.float64))
        self.register_buffer("support", torch.zeros(0, 0, dtype=torch.float64))

    def values(self) -> Sequence[str]:
        return ["logits"]

    def inputs(self) -> Mapping[str, bool]:
        return {"vector": True} if self.features is None else self.features.inputs()

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {} if self.features is None else self.features.transform(sample)

    def transform_key(self) -> Hashable | None:
        return None if self.features is None else self.features.transform_key()

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return super().collate(rows) if self.features is None else self.features.collate(rows)

    def forward(self, **fields: Any) -> dict[str, Tensor]:
        x = self._embedded(fields)
        if x.dim() != 2:
            raise GraphError(f"needs one vector a sample, not {list(x.shape)}", where="core.kernel_machine")
        return {"logits": self.at(self.argument(x))}

    def at(self, x: Tensor) -> Tensor:
        """The function.

        Shape: x `[B, D]` -> `[B, outputs]`.
        """
        with torch.autocast(x.device.type, enabled=False):
            gram = self.gram(x.double(), self.support) if len(self.support) else x.new_zeros(len(x), 0).double()
            return (gram @ self.coefficients).to(x.dtype)

    def _embedded(self, fields: Mapping[str, Any]) -> Tensor:
        if self.features is None:
            vector: Tensor = fields["vector"]
            return vector
        with torch.no_grad(), self.features.reading(frozenset({self.value})):
            found: Tensor = self.features(**fields)[self.value]
        return found

    def gram(self, x: Tensor, z: Tensor) -> Tensor:
        """The kernel of each row of x with each row of z.

        Shape: x `[B, D]`, z `[N, D]` -> `[B, N]`.
        """
        if self.kernel == "linear":
            return x @ z.T
        squares = x.square().sum(1, keepdim=True) + z.square().sum(1) - 2 * x @ z.T
        return torch.exp(-self.gamma * squares.clamp(min=0))

    @torch.no_grad()
    def fit(self, points: Tensor, targets: Tensor, ridge: float) -> None:
        """Take the function nearest to the targets under a penalty: `(K + ridge I) a = targets`.

        Shape: points `[N, D]`, targets `[N, outputs]`.
        """
        x, y = points.double(), targets.double()
        gram = self.gram(x, x)
        gram.diagonal().add_(ridge)
        self.support, self.coefficients.data = x, torch.linalg.solve(gram, y)

    def train(self, mode: bool = True) -> KernelMachine:
        super().train(mode)
        if self.features is not None:
            self.features.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As many points as were saved."""
        for name, own in (("support", self.support), ("coefficients", self.coefficients.data)):
            if (saved := state_dict.get(prefix + name)) is not None and saved.shape != own.shape:
                made = own.new_zeros(saved.shape)
                if name == "support":
                    self.support = made
                else:
                    self.coefficients.data = made
        super()._load_from_state_dict(state_dict, prefix, *args)
