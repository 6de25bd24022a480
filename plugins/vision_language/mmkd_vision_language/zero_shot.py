"""Classification of images by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkd
from mmkd.errors import DataError, GraphError, RecipeError

ID = "vision_language.zero_shot"


class ZeroShot(mmkd.Metric):
    """Share of images nearest to the text of their own class (CLIP: Radford et al., 2021).

    `text` embeds a prompt of the sample's class, such as `vision_language.class_prompts` writes for any labelled
    dataset. All prompts seen of a class make its prototype, `normalise(mean_t text_t / ||text_t||)`, each distinct
    one once where `prompt` is bound; then every image is given to the prototype that is nearest by cosine. The
    classes are those seen in the evaluation set. A tie counts as wrong.

    Shape: image, text `[B, D]`, label `[B]`, prompt: list of B texts (`batch.text`) -> `top_<k>_accuracy` for every
    k, and `mean_class_accuracy`, the top-1 accuracy averaged over classes; between 0 and 1.

    Raises:
        DataError: no sample was seen, or k is not less than the number of classes.
        GraphError: the shapes do not fit.
        RecipeError: some k is less than 1, or there is none.
    """

    def __init__(self, k: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        if not k or min(k) < 1:
            raise RecipeError(f"k must list numbers from 1, not {list(k)}", where=ID)
        self.k = tuple(k)
        self.images, self.texts, self.labels, self.prompts = (mmkd.Rows(ID) for _ in range(4))

    def forward(self, image: Tensor, text: Tensor, label: Tensor, prompt: Sequence[str] | None = None) -> None:
        if image.dim() != 2 or image.shape != text.shape or label.shape != image.shape[:1]:
            raise GraphError(
                f"needs image, text [B, D] and label [B], not {list(image.shape)}, {list(text.shape)} and "
                f"{list(label.shape)}",
                where=ID,
            )
        self.images.add(F.normalize(image, dim=1))
        self.texts.add(F.normalize(text, dim=1))
        self.labels.add(label)
        if prompt is not None:
            self.prompts.add(prompt)

    def compute(self) -> dict[str, float]:
        images, texts = self.images.joined(), self.texts.joined()
        classes, label = torch.unique(self.labels.joined(), return_inverse=True)
        if max(self.k) >= len(classes):
            raise DataError(
                f"top {max(self.k)} of the {len(classes)} classes seen is always right", where=ID, next="lower k"
            )
        once = _first_of_each(label.tolist(), self.prompts.listed() or range(len(label)))
        kept = torch.tensor(once, device=label.device)
        sums = texts.new_zeros(len(classes), texts.shape[1]).index_add_(0, label[kept], texts[kept])
        cosine = images @ F.normalize(sums, dim=1).T
        ranks = (~(cosine < cosine.gather(1, label[:, None]))).sum(1)
        right = (ranks == 1).double()
        per_class = right.new_zeros(len(classes)).index_add_(0, label, right) / label.bincount(minlength=len(classes))
        scores = {f"top_{k}_accuracy": (ranks <= k).double().mean().item() for k in self.k}
        return {**scores, "mean_class_accuracy": per_class.mean().item()}


def _first_of_each(labels: Sequence[int], prompts: Sequence[object]) -> list[int]:
    """Where each prompt of a class appears first."""
    first: dict[tuple[int, object], int] = {}
    for place, pair in enumerate(zip(labels, prompts, strict=True)):
        first.setdefault(pair, place)
    return list(first.values())
