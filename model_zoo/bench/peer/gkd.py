"""TRL's GKDTrainer off-policy (`lmbda=0`) with `beta=0`, which is KL(teacher || student), as on the other sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Trainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from model_zoo.bench.measure import Row
from model_zoo.bench.peer.language import SIZES, Laps, collate, pair, sentences
from model_zoo.bench.peer.trainer import ARGUMENTS, compared, trained


def contestant(size: str, steps: int, folder: str) -> Callable[[], Laps]:
    teacher, student = pair(size)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {str(i): i for i in range(3, SIZES[size][3])}
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), pad_token="<pad>", eos_token="<eos>"
    )
    off_policy = {"lmbda": 0.0, "beta": 0.0, "temperature": 1.0, "seq_kd": False, "gradient_checkpointing": False}
    settings = GKDConfig(output_dir=folder, max_steps=steps, bf16=False, **off_policy, **ARGUMENTS)
    held = Dataset.from_list([{name: row.tolist() for name, row in held.items()} for held in sentences(size, steps)])

    def make(**options: Any) -> Trainer:
        return GKDTrainer(  # type: ignore[no-any-return]
            student, teacher, train_dataset=held.with_format("torch"), data_collator=collate,
            processing_class=tokenizer, **options,
        )  # fmt: skip

    return lambda: trained(make, settings)


def rows(short: bool) -> Iterator[Row]:
    yield from compared("GKDTrainer", contestant, short)
