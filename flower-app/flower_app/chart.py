"""chart.png: accuracy and loss by round, drawn beside the run, never in its way."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from flower_app.files import write_atomic

REST_S = 5.0
SERVER, CLIENTS, GRID, TEXT = "#2f6f4f", "#e2b07e", "#e3e6e4", "#33403a"


class ChartPainter:
    """Draws the newest history every few seconds, in a thread of its own, and at the end: half a second of CPU each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chart")
        self._newest = deque[tuple[str, list[dict[str, Any]]]](maxlen=1)
        self._rest_until = time.monotonic() + REST_S
        self._closing = threading.Event()
        self._failed = False

    def draw(self, title: str, history: Sequence[dict[str, Any]]) -> None:
        """Ask for the chart of this history within REST_S; returns at once."""
        self._newest.append((title, list(history)))
        self._thread.submit(self._draw_next)

    def close(self) -> None:
        """Wait for the last chart."""
        self._closing.set()
        self._thread.shutdown(wait=True)

    def _draw_next(self) -> None:
        if not self._newest:
            return  # a newer chart has been drawn instead
        self._closing.wait(max(0.0, self._rest_until - time.monotonic()))
        title, history = self._newest.pop()
        self._rest_until = time.monotonic() + REST_S
        try:
            write_atomic(self._path, painted(title, history))
        except Exception as error:  # a run must not fail by its picture
            if not self._failed:
                print(f"chart.png was not drawn: {type(error).__name__}: {error}", flush=True)
            self._failed = True


def painted(title: str, history: Sequence[dict[str, Any]]) -> bytes:
    """Give the PNG: accuracy on the left, loss on the right, by the round after which the model was scored.

    In round n the sites score the model that arrived, which is the one after round n - 1; round 0 is the first model.

    Raises ImportError where matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=TEXT)
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        _line(axes, [(entry["round"] - 1, entry[f"client_{name}"]) for entry in history], "sites, data held back", CLIENTS, 6)
        _line(axes, [(entry["round"], entry[f"server_{name}"]) for entry in history], "test set, on the server", SERVER, 3.5)
        axes.set_title(name, loc="left", fontsize=10, color=TEXT)
        axes.set_xlabel("round", color=TEXT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(-0.3, max(1, *(entry["round"] for entry in history)) + 0.3)
        axes.set_ylim(0, 1.02) if name == "accuracy" else axes.set_ylim(bottom=0)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=TEXT)
        if axes.get_lines():
            axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _line(axes: Any, points: Sequence[tuple[int, float | None]], label: str, colour: str, dot: float) -> None:
    measured = [(after, value) for after, value in points if value is not None]
    if measured:
        rounds, values = zip(*measured, strict=True)
        label = f"{label}: {values[-1]:.3f}"
        axes.plot(rounds, values, color=colour, label=label, marker="o", markersize=dot, linewidth=dot / 2)
