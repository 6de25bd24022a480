"""A dataset whose completions a teacher has written, kept in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

import mmkd
from mmkd.errors import DataError, RecipeError
from mmkd_language.bleu import sentence_bleu
from mmkd_language.prompt import CHECKSUM, TEXT, Prompt, prompt_of

Count = Annotated[int, Field(ge=1)]
_PLACE = "language.generated"


class Generated(mmkd.Dataset):
    """Another dataset with its completions replaced by a teacher's, found by beam search (Kim and Rush, 2016).

    A student trained on them with plain cross-entropy learns the teacher's mode: sequence-level distillation. With
    `keep: closest` it is the completion among the beams that is nearest to the reference, by smoothed sentence BLEU
    over words: sequence-level interpolation. The field `reference` holds what the data had as `target`, where it had
    one. A sample without `target` is a bare prompt.

    The prompt is whatever the teacher reads: a text, or the sound that `audio.captioner` writes a caption of. It is
    known again by its text where the teacher reads nothing else, and otherwise by the SHA-256 of what it reads, so that
    sounds need no text.

    Everything is written once, before training, into a file that later runs read. It begins with what it was made of;
    a file of another teacher, of other options or other prompts is refused. A run that was killed goes on where it
    stopped. Fill the file with one process before several train on it.

    Args:
        dataset: samples with what the teacher reads, and mostly `target`.
        teacher: network that writes: it has the capability `generate` and the methods `beams(fields, rows, beams, ...)`
            and `read(ids)`, as `language.causal_lm` has them.
        path: JSON-lines file of what it wrote.
        beams: beams of the search, all of which are kept in the file; 1 is greedy.
        keep: the `best` completion by the teacher's own score, the `closest` to the reference, or the `reference`
            itself, for a baseline; then nothing is written.
        max_new_tokens: tokens written at most; None for as many as the teacher's `max_length` leaves.
        length_penalty: power of the length that log-probabilities are divided by.
        batch_size: prompts that are continued together.

    Raises:
        DataError: the file was made of something else (it names what), or a sample has no reference to be close to.
        RecipeError: the teacher cannot write.
    """

    def __init__(
        self,
        dataset: mmkd.Dataset,
        teacher: mmkd.Encoder,
        path: str,
        beams: Count = 5,
        keep: Literal["best", "closest", "reference"] = "best",
        max_new_tokens: Count | None = None,
        length_penalty: float = 1.0,
        batch_size: Count = 32,
    ) -> None:
        if "generate" not in teacher.capabilities:
            raise RecipeError(f"a {type(teacher).__name__} does not write", where=f"{_PLACE}.teacher",
                              next="use: language.causal_lm")  # fmt: skip
        self.dataset, self.keep, self.license = dataset, keep, dataset.license
        self._options: dict[str, Any] = {"beams": beams, "max_new_tokens": max_new_tokens}
        self._options["length_penalty"] = length_penalty
        self._file = Path(path)
        self._written: dict[str, tuple[str, list[str]]] = {}
        if keep != "reference":
            self._written = self._read({"teacher": _fingerprint(teacher), **self._options})
            self._write(teacher, batch_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = dict(self.dataset[index])
        if self.keep != "best" and "target" not in sample:
            raise DataError("there is no 'target'", where=f"{_PLACE}.keep", next="keep: best")
        if self.keep == "reference":
            return {**sample, "key": _key(sample, index), "reference": sample["target"]}
        _, made = self._written[_key(sample, index)]
        if self.keep == "closest":
            wanted = sample["target"].split()
            best = max(made, key=lambda text: sentence_bleu(text.split(), wanted))  # the likelier one of equals
        else:
            best = made[0]
        reference = {"reference": sample["target"]} if "target" in sample else {}
        return {**sample, **reference, "key": _key(sample, index), "target": best}

    def _read(self, made_of: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
        """What the file holds, by key: prompt and completions; a line that was cut short is cut off."""
        if not self._file.is_file() or not self._file.stat().st_size:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(made_of) + "\n")
            return {}
        content = self._file.read_bytes()
        if (whole := content.rfind(b"\n") + 1) != len(content):
            with self._file.open("r+b") as file:
                file.truncate(whole)
        head, *lines = content[:whole].decode().splitlines()
        before = json.loads(head)
        for name, value in made_of.items():
            if before.get(name) != value:
                raise self._refused(name, before.get(name), value)
        entries = [json.loads(line) for line in lines]
        return {e["key"]: (e[TEXT] if TEXT in e else e[CHECKSUM], e["written"]) for e in entries}

    def _refused(self, name: str, before: object, now: object) -> DataError:
        return DataError(
            f"was written with another {name}\n  in the file {before}\n  now         {now}", where=str(self._file),
            next=f"give another path, or the {name} of the file",
        )  # fmt: skip

    def _write(self, teacher: Any, batch: int) -> None:
        """Let the teacher write what the file lacks."""
        lacking = list(self._lacking(teacher))
        was_training, device = teacher.training, next(teacher.parameters()).device
        teacher.eval().to("cuda" if torch.cuda.is_available() and lacking else device)
        try:
            with self._file.open("a") as file:
                for start in range(0, len(lacking), batch):
                    part = lacking[start : start + batch]
                    prompts = [prompt_of(teacher, self.dataset[index]) for index, _ in part]
                    for (_, key), prompt, made in zip(part, prompts, self._search(teacher, prompts), strict=True):
                        self._written[key] = prompt.name, made
                        file.write(json.dumps({"key": key, prompt.kind: prompt.name, "written": made}) + "\n")
                    file.flush()
        finally:
            teacher.train(was_training).to(device)

    def _lacking(self, teacher: mmkd.Encoder) -> Iterator[tuple[int, str]]:
        """Index and key of the samples that the file lacks, each key once."""
        seen: dict[str, str] = {}
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            key, prompt = _key(sample, index), prompt_of(teacher, sample).name
            before = self._written[key][0] if key in self._written else seen.get(key, prompt)
            if before != prompt:
                raise self._refused(f"prompt for sample '{key}'", before, prompt)
            if key not in self._written and key not in seen:
                seen[key] = prompt
                yield index, key

    def _search(self, teacher: Any, prompts: Sequence[Prompt]) -> Iterator[list[str]]:
        fields = teacher.collate([prompt.row for prompt in prompts])
        with torch.no_grad():
            found = teacher.beams(fields, range(len(prompts)), **self._options)
        for several in found:
            yield [teacher.read(ids)[0] for ids in several]


def _key(sample: Mapping[str, Any], index: int) -> str:
    return str(sample.get("key", index))


def _fingerprint(teacher: mmkd.Encoder) -> str:
    """SHA-256 over weights and tokenizer."""
    digest = hashlib.sha256(repr(teacher.transform_key()).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
