"""Speech that espeak-ng makes of any texts."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import soundfile
from pydantic import Field

import mmkd
from mmkd.errors import DataError
from mmkd.files import entries
from mmkd_audio.phrases import digest, phrases
from mmkd_audio.resample import resampled
from mmkd_audio.sound import Sound, read_sound
from mmkd_audio.speech import check_voice, speak, version

Split = Literal["train", "held_out", "validation", "fit", "all"]
Speed = Annotated[int, Field(ge=80, le=450)]
Pitch = Annotated[int, Field(ge=0, le=99)]
FOLDS = 5
PACKAGED = "phrases"
SHOWN = 60


class Espeak(mmkd.Dataset):
    """Texts read out by espeak-ng, every text by every voice, speed and pitch (Dunn and Vitolins, 1995 to today).

    Formant speech: it can be understood and it is plainly synthetic. What was said once is kept as a wav file named by
    checksum, and read from there. `held_out` is one fold of five of the texts, `train` the others; for tuning,
    `validation` is the fold after the held-out one and `fit` what remains of `train`. A text is in the same fold in
    every list that has it. Hold voices out by giving other ones.

    Fields of a sample: `key`, `audio` (array and sampling_rate), `text`, `label` (place of the text in the whole list,
    the same in every split), `voice`; and what else the table of texts says, such as `paraphrase`.

    Args:
        texts: the texts; or a file with one a line (`.txt`) or in a column `text` (`.csv`, `.jsonl`), whose other
            columns of words are taken along; or `phrases`, 450 that come with this package, each with a `paraphrase`.
        voices: languages and, behind a plus, speakers: `en-us+f2`, `de`; see `espeak-ng --voices` and
            `espeak-ng --voices=variant`.
        speeds: words per minute.
        pitches: from 0 to 99.
        split: which texts.
        fold: which of the five folds is held out.
        sampling_rate: samples per second of what is kept.
        folder: where speech is kept; `$MMKD_SPEECH`, else a folder in the user's own cache folder.

    Raises:
        DataError: espeak-ng or a voice is not there, or there is no text.
    """

    license = "espeak-ng is GPL-3.0-or-later, the speech it makes is not"

    def __init__(
        self,
        texts: list[str] | str = PACKAGED,
        voices: Annotated[list[str], Field(min_length=1)] = ["en-us"],  # noqa: B006
        speeds: Annotated[list[Speed], Field(min_length=1)] = [175],  # noqa: B006
        pitches: Annotated[list[Pitch], Field(min_length=1)] = [50],  # noqa: B006
        split: Split = "all",
        fold: Literal[0, 1, 2, 3, 4] = 0,
        sampling_rate: Annotated[int, Field(ge=1000)] = 16_000,
        folder: str | None = None,
    ) -> None:
        version()
        for voice in voices:
            check_voice(voice)
        told = _rows(texts)
        following = (fold + 1) % FOLDS
        folds: dict[str, set[int]] = {
            "train": set(range(FOLDS)) - {fold}, "held_out": {fold}, "validation": {following},
            "fit": set(range(FOLDS)) - {fold, following}, "all": set(range(FOLDS)),
        }  # fmt: skip
        kept = [(i, row) for i, row in enumerate(told) if digest(f"fold {row['text']}") % FOLDS in folds[split]]
        if not kept:
            raise DataError(f"none of {len(told)} texts is in split '{split}'", where="audio.espeak", next="split: all")
        self.classes = len(told)
        self.rate, self.root = sampling_rate, _home(folder)
        self.rows = [(i, row, *how) for i, row in kept for how in itertools.product(voices, speeds, pitches)]

    def __len__(self) -> int:
        return len(self.rows)

    def manifest(self) -> list[tuple[str, Any]]:
        return [(self._key(i), [self._name(i), row, label]) for i, (label, row, *_) in enumerate(self.rows)]

    def seconds(self, index: int) -> float:
        """How long a sample lasts."""
        return len(self._sound(index).waveform) / self.rate

    def __getitem__(self, index: int) -> dict[str, Any]:
        label, row, voice, _, _ = self.rows[index]
        return {"key": self._key(index), "audio": self._sound(index).field, **row, "label": label, "voice": voice}

    def _key(self, index: int) -> str:
        _, row, voice, speed, pitch = self.rows[index]
        text = row["text"] if len(row["text"]) <= SHOWN else f"{row['text'][:SHOWN]}... {digest(row['text']):x}"
        return f"{voice}/{speed}/{pitch}/{text}"

    def _name(self, index: int) -> str:
        """Checksum of all that decides how it sounds."""
        _, row, voice, speed, pitch = self.rows[index]
        told = repr((version(), row["text"], voice, speed, pitch, self.rate))
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def _sound(self, index: int) -> Sound:
        _, row, voice, speed, pitch = self.rows[index]
        path = self.root / f"{self._name(index)}.wav"
        if not path.is_file():
            _keep(resampled(speak(row["text"], voice, speed, pitch), self.rate), self.rate, path)
        return read_sound(path)


def _rows(texts: list[str] | str) -> list[dict[str, str]]:
    """Each text with what else is said about it."""
    if texts == PACKAGED:
        return [phrase._asdict() for phrase in phrases()]
    if isinstance(texts, list):
        rows, where = [{"text": text} for text in texts], "texts"
    elif (path := Path(texts).expanduser()).suffix == ".txt" and path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read: {error}", where=texts, next="save it as UTF-8") from error
        rows, where = [{"text": line.strip()} for line in lines if line.strip()], texts
    else:
        found = [(place, {k: v for k, v in entry.items() if isinstance(v, str)}) for place, entry in entries(path)]
        if lacking := next((place for place, row in found if "text" not in row), None):
            raise DataError("has no column 'text'", where=lacking, exists=sorted(found[0][1]))
        rows, where = [row for _, row in found], texts
    twice = {row["text"] for row in rows} if len({row["text"] for row in rows}) < len(rows) else set()
    if not rows or not all(row["text"].strip() for row in rows) or twice:
        what = "holds a text twice" if twice else "holds an empty text" if rows else "holds no texts"
        raise DataError(what, where=where, next="give each text once")
    if len({frozenset(row) for row in rows}) > 1:
        raise DataError("has rows with other columns than others", where=where)
    return rows


def _home(folder: str | None) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    if given := os.environ.get("MMKD_SPEECH"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmkd-speech"


def _keep(waveform: Any, rate: int, path: Path) -> None:
    """Write aside and rename, so that no other process reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        soundfile.write(file, waveform, rate, format="WAV", subtype="PCM_16")
    Path(file.name).replace(path)
