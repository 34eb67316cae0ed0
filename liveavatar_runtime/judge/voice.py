"""How loud a voice is in the course of a video."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

CELL_RATE = 100
"""Values of loudness a second: 400 bytes a second are kept of a sound of any length."""
SMOOTHED_SECONDS = 0.05
"""Standard deviation of the window that the loudness of a frame is taken over: lips are no faster."""
LOUD_QUANTILE = 0.9
SILENT = 0.08
"""Of the loudness of loud parts, below which a part is silent."""


class LoudnessMeter:
    """Takes sound in pieces of any length and keeps a value for each hundredth of a second."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._cells: list[np.ndarray] = []
        self._waiting = np.zeros(0, np.float32)
        self._done = 0

    def add(self, samples: np.ndarray) -> None:
        """Float [C, S], all channels heard as one."""
        mono = np.asarray(samples, np.float32).mean(axis=0)
        self._waiting = np.concatenate([self._waiting, mono]) if len(self._waiting) else mono
        first, done = self._start(self._done), self._done
        end = first + len(self._waiting)
        while self._start(done + 1) <= end:
            done += 1
        if done == self._done:
            return
        edges = np.array([self._start(cell) - first for cell in range(self._done, done)])
        whole = self._waiting[: self._start(done) - first]
        sums = np.add.reduceat(np.square(whole, dtype=np.float64), edges)
        self._cells.append(sums / np.diff([*edges, len(whole)]))
        self._waiting, self._done = self._waiting[len(whole) :], done

    def loudness(self) -> "Loudness":
        """Of all that was added."""
        squares = np.concatenate(self._cells) if self._cells else np.zeros(0)
        reach = round(3 * SMOOTHED_SECONDS * CELL_RATE)
        window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (SMOOTHED_SECONDS * CELL_RATE)) ** 2)
        smoothed = np.convolve(np.sqrt(squares), window / window.sum(), "same") if len(squares) > 2 * reach else squares
        return Loudness(smoothed.astype(np.float32))

    def _start(self, cell: int) -> int:
        """The first sample of a cell."""
        return cell * self._rate // CELL_RATE


@dataclass(frozen=True, eq=False)
class Loudness:
    """Smoothed root mean square of a sound, `CELL_RATE` values a second; silence before and after it."""

    cells: np.ndarray

    @classmethod
    def of(cls, waveform: np.ndarray, sample_rate: int) -> "Loudness":
        """Of a waveform [C, S] that is in memory."""
        meter = LoudnessMeter(sample_rate)
        for part in parts(waveform, sample_rate):
            meter.add(part)
        return meter.loudness()

    @property
    def loud(self) -> float:
        """That of loud speech; 0 of a sound in which nobody speaks."""
        heard = self.cells[self.cells > 1e-3]
        return float(np.quantile(heard, LOUD_QUANTILE)) if len(heard) else 0.0

    def at(self, first: int, count: int, fps: Fraction, later: np.ndarray | float = 0.0) -> np.ndarray:
        """[..., count]: of the frames from `first` on, `later` ([..., 1]) frames after their time."""
        times = (np.arange(first, first + count) + later) / float(fps)
        return np.interp(times * CELL_RATE - 0.5, np.arange(len(self.cells)), self.cells, left=0.0, right=0.0)


def parts(waveform: np.ndarray, sample_rate: int) -> Iterable[np.ndarray]:
    """Pieces of ten seconds."""
    step = 10 * sample_rate
    return (waveform[:, start : start + step] for start in range(0, waveform.shape[1], step))
