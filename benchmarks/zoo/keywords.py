"""Spoken keywords made by a speech synthesiser: ten words, many voices, noise; judges int8, not recognition of people.

The synthesiser is espeak-ng out of the package ``espeakng-loader`` (GPL-3, a tool of the benchmark and no part of
edgekit), called through ctypes.
"""

import ctypes
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANDS", "FRAMES", "WORDS", "log_mel", "make_keywords"]

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE = 16_000  # Hz, of the features; one clip is one second
FRAMES, BANDS = 40, 32  # 25 ms apart, mel bands
_ACCENTS = ("en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-029")
_TRAIN_VOICES = ("m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "Alex", "Andrea", "Denis", "linda")
_EVAL_VOICES = ("m6", "m7", "f4", "f5", "Annie", "Gene")
_WINDOW, _HOP, _BINS = 640, 400, 1024
_RETRIEVAL, _RATE_PARAMETER, _PITCH, _RANGE, _UTF8 = 1, 1, 3, 4, 1  # speak_lib.h

_Clip = NDArray[np.float32]


def make_keywords(wheel: Path, folder: Path) -> dict[str, NDArray[np.generic]]:
    """Speak and digest all rows; takes about two minutes.

    Args:
        wheel: Of ``espeakng-loader``.
        folder: Where it is unpacked.

    Returns:
        ``train_inputs`` and ``eval_inputs``, log mel energies, float32 (N, 40, 32); ``train_targets`` and
        ``eval_targets``, index into ``WORDS``, int64 (N,). No voice stands in both parts.
    """
    speaker = _Speaker(wheel, folder)
    generator = np.random.default_rng(0)
    found: dict[str, NDArray[np.generic]] = {}
    for part, voices, takes in (("train", _TRAIN_VOICES, 5), ("eval", _EVAL_VOICES, 6)):
        rows = [
            (log_mel(_mix(clip, generator)), target)
            for target, word in enumerate(WORDS)
            for accent in _ACCENTS
            for voice in voices
            for clip in speaker.takes(word, f"{accent}+{voice}", takes, generator)
        ]
        found[f"{part}_inputs"] = np.stack([features for features, _ in rows])
        found[f"{part}_targets"] = np.array([target for _, target in rows], np.int64)
    return found


def log_mel(clip: _Clip) -> NDArray[np.float32]:
    """Give log mel energies of one second of sound at 16 kHz, float32 (40, 32), roughly of mean 0 and deviation 1.

    Source:
        Mel scale 2595 log10(1 + f / 700) of O'Shaughnessy 1987; triangular filters from 60 Hz to 7.6 kHz.
    """
    padded = np.pad(clip, (_WINDOW // 2, _WINDOW // 2))
    frames = np.stack([padded[i * _HOP : i * _HOP + _WINDOW] for i in range(FRAMES)]) * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, _BINS)) ** 2
    energies: NDArray[np.float64] = np.log(power @ _mel_filters().T + 1e-4)
    return ((energies + 2.0) / 3.5).astype(np.float32)


@cache
def _mel_filters() -> NDArray[np.float64]:
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60.0, 7600.0))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    at = np.arange(_BINS // 2 + 1) * RATE / _BINS
    rising = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def _mix(clip: _Clip, generator: np.random.Generator) -> _Clip:
    """Place a clip somewhere in one second and add coloured noise, 0 to 20 dB below it."""
    clip = clip[: RATE - 1]
    out = np.zeros(RATE, np.float32)
    start = int(generator.integers(0, RATE - len(clip)))
    out[start : start + len(clip)] = clip / (np.sqrt(np.mean(clip**2)) + 1e-6) * 0.1 * generator.uniform(0.5, 2.0)
    noise = generator.standard_normal(RATE + 1)
    tilt = generator.uniform(0.0, 0.95)
    noise = noise[1:] + tilt * noise[:-1]
    level = np.sqrt(np.mean(out**2)) * 10 ** (-generator.uniform(0.0, 20.0) / 20)
    out += (noise / np.sqrt(np.mean(noise**2)) * level).astype(np.float32)
    return out


class _Speaker:
    """One espeak-ng library; it keeps global state, so one process makes one."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        if not (folder / "espeakng_loader").is_dir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        home = folder / "espeakng_loader"
        self._library = ctypes.CDLL(str(home / "libespeak-ng.so"))
        self._chunks: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._take)  # kept: the library holds a bare pointer
        self._source_rate = self._library.espeak_Initialize(_RETRIEVAL, 0, str(home).encode(), 0)
        if self._source_rate <= 0:
            raise RuntimeError(f"espeak-ng does not start: it returned {self._source_rate}")
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if count > 0 and samples:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def takes(self, word: str, voice: str, count: int, generator: np.random.Generator) -> Iterator[_Clip]:
        """Say a word several times at random speed and pitch: float32 in [-1, 1] at 16 kHz."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        for _ in range(count):
            for parameter, low, high in ((_RATE_PARAMETER, 120, 220), (_PITCH, 25, 75), (_RANGE, 20, 80)):
                self._library.espeak_SetParameter(parameter, int(generator.integers(low, high)), 0)
            self._chunks.clear()
            text = word.encode()
            self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
            self._library.espeak_Synchronize()
            sound = np.concatenate(self._chunks).astype(np.float32) / 32768
            loud = np.flatnonzero(np.abs(sound) > 0.01)
            sound = sound[loud[0] : loud[-1] + 1]
            at = np.arange(0, len(sound) - 1, self._source_rate / RATE)
            yield np.interp(at, np.arange(len(sound)), sound).astype(np.float32)
