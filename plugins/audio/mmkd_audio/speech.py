"""The program espeak-ng: whether it is there, which voices it has, and what it says."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence

from mmkd.errors import DataError
from mmkd_audio.sound import Sound, read_sound

PROGRAM = "espeak-ng"
INSTALL = "apt-get install espeak-ng (Debian, Ubuntu), brew install espeak-ng (macOS)"


@functools.cache
def version() -> str:
    """What espeak-ng says about itself, without the place of its data.

    Raises:
        DataError: it is not installed.
    """
    if shutil.which(PROGRAM) is None:
        raise DataError(f"the program {PROGRAM} is not installed", where="audio.espeak", next=INSTALL)
    return _said(["--version"], b"")[1].decode(errors="replace").partition("Data at")[0].strip()


@functools.cache
def variants() -> frozenset[str]:
    """Names of the speakers that any language can be spoken by: `m1`, `f2`, `Andy`."""
    lines = _said(["--voices=variant"], b"")[1].decode(errors="replace").splitlines()
    return frozenset(line.partition("!v/")[2].split("  ")[0].strip() for line in lines if "!v/" in line)


@functools.cache
def check_voice(voice: str) -> None:
    """Refuse a voice that is not there; espeak-ng itself takes a speaker that it does not know for the plain voice.

    Raises:
        DataError: no such language, or no such speaker.
    """
    version()
    language, plus, speaker = voice.partition("+")
    if plus and speaker not in variants():
        raise DataError(f"'{voice}' has no such speaker", where="voices", name=speaker, exists=sorted(variants()))
    if not language or language.startswith("-") or _said(["-q", "-v", language, "--stdin"], b"a")[0]:
        raise DataError(f"'{voice}' is no such language", where="voices", next=f"{PROGRAM} --voices")


def speak(text: str, voice: str, speed: int, pitch: int) -> Sound:
    """What is heard when a text is read out.

    Args:
        speed: words per minute.
        pitch: from 0 to 99.

    Raises:
        DataError: espeak-ng fails, or says nothing.
    """
    given = ["-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"]
    code, data, error = _said(given, text.encode())
    if code or len(data) <= 44:
        raise DataError(f"{PROGRAM} says nothing: {error.strip() or 'no error'}", where=f"'{text}' by {voice}")
    return read_sound(data, f"'{text}' by {voice}")


def _said(arguments: Sequence[str], given: bytes) -> tuple[int, bytes, str]:
    """Exit code, output and error."""
    done = subprocess.run([PROGRAM, *arguments], input=given, capture_output=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")
