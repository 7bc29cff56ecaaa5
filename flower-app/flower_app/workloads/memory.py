"""What a fit takes of RAM and VRAM, when that is too much, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flower_app.measures import memory_bytes, peak_rss_bytes, rss_bytes

GB = 1e9
KNOBS = "Lower batch-size, max-length or lora-r, train fewer layers, or give the node more memory"
GPU_KNOBS = f"{KNOBS}; amp = auto halves what is computed with, and device = cpu needs no GPU"
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory", "_status_alloc_failed")


class OutOfMemory(RuntimeError):
    """A fit needs more memory than there is."""


class MemoryWatch:
    """RAM of this process and VRAM of a device at the start and the end of a fit; warns above a share of what there is."""

    def __init__(self, device: torch.device, warning_share: float) -> None:
        self._device, self._share = device, warning_share
        self._on_gpu = device.type == "cuda"
        self._rss_start = rss_bytes()
        self._vram_start = torch.cuda.memory_allocated(device) if self._on_gpu else 0
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)

    def facts(self) -> dict[str, str | int | float]:
        """Say it at the end; bytes, and `memory_warning` where there is one."""
        found: dict[str, str | int | float] = {"fit_rss_start_bytes": self._rss_start, "fit_rss_bytes": rss_bytes()}
        used = [("RAM", peak_rss_bytes(), memory_bytes())]
        if self._on_gpu:
            peak = torch.cuda.max_memory_reserved(self._device)
            found |= {
                "fit_vram_start_bytes": self._vram_start,
                "fit_vram_bytes": torch.cuda.memory_allocated(self._device),
                "fit_vram_peak_bytes": peak,
            }
            used.append(("VRAM", peak, torch.cuda.get_device_properties(self._device).total_memory))
        if warnings := [self._warning(*each) for each in used if each[1] > self._share * each[2]]:
            found["memory_warning"] = "; ".join(warnings)
            print(f"warning: {found['memory_warning']}", flush=True)
        return found

    def _warning(self, what: str, peak: int, whole: int) -> str:
        return f"the fit took {peak / GB:.2f} of {whole / GB:.2f} GB {what}, more than memory-warning-share {self._share:g}"


@contextmanager
def told_when_out_of_memory(device: torch.device) -> Iterator[None]:
    """Raise OutOfMemory, with the knobs to turn, for what Python and torch raise when memory is short."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"out of memory: {error or 'no room for an array'}. {KNOBS}") from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and the CPU's allocator raises it plainly
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error).lower() for sign in SIGNS):
            raise
        knobs = GPU_KNOBS if device.type == "cuda" else KNOBS
        raise OutOfMemory(f"{device.type} out of memory: {str(error).splitlines()[0]}. {knobs}") from error
