"""Modules made ready to run. Compiling is done by a child of this process that has limits, and once for each module.

`python -m flower_app.workloads.wasm.compiler CPU_S MEMORY_BYTES` compiles what comes on stdin and gives native code on stdout. It
stays in the process group of its parent, so that it ends with it; it starts no process itself, and writes no file. The bound on
memory is the kernel's RLIMIT_AS, which macOS does not keep: there, time alone bounds it.
"""

import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flower_app.text import one_line
from flower_app.workloads.wasm import abi, native_code, refusals
from flower_app.workloads.wasm.abi import abi_of
from flower_app.workloads.wasm.engine import engine, native_engine, wasmtime
from flower_app.workloads.wasm.faults import CompileLimit, ModuleInvalid

APP = Path(__file__).parents[3]
"""Where flower_app is imported from, also in a FAB that is unpacked and not installed."""
MAGIC = b"\0asm"
INVALID = 65
"""Exit code for a module that is none; what is wrong stands on stderr. sysexits.h: EX_DATAERR."""
MOST_THREADS = 4
_MAY_PASS = ("annot allocate memory", "failed to spawn thread")
_NO_MEMORY = ("memory allocation of", "MemoryError", *_MAY_PASS)


@dataclass(frozen=True)
class Bounds:
    """What compiling may use at most. A task of 26 KB takes 0.1 CPU-s, a Go client of 4.6 MB 5.6 CPU-s."""

    cpu_s: int = 120
    wall_s: float = 300.0
    memory_bytes: int = 2 << 30


def compiled(wasm: bytes, sha256: str, cache_dir: Path | None, bounds: Bounds | None = None) -> wasmtime.Module:
    """Give the module of this sha256, ready to run. Raises ModuleInvalid, CompileLimit."""
    here = engine()
    module = here.module(sha256)
    if module is None:
        module = _loaded(native_code.read(cache_dir, sha256))
    if module is None:
        native = _native(wasm, sha256, cache_dir, bounds or Bounds())
        module = wasmtime.Module.deserialize(here.native, native)
        native_code.keep(cache_dir, sha256, native)
    here.keep(sha256, module)
    return module


def main() -> int:
    """Compile stdin to stdout, within limits."""
    cpu_s, memory_bytes = map(int, sys.argv[1:])
    for kind, soft, more in (
        (resource.RLIMIT_CPU, cpu_s, 5),
        (resource.RLIMIT_AS, memory_bytes, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = [value if hard == resource.RLIM_INFINITY else min(value, hard) for value in (soft, soft + more)]
        resource.setrlimit(kind, (most[0], most[1]))
    try:
        module = wasmtime.Module(native_engine(), sys.stdin.buffer.read())
        abi_of(module)
        native = module.serialize()
    except (ModuleInvalid, wasmtime.WasmtimeError) as error:
        print(error, file=sys.stderr)
        return INVALID
    sys.stdout.buffer.write(native)
    return 0


def reason(text: str) -> str:
    """Give the first line of what wasmtime says, and the innermost cause."""
    first, inner = one_line(text.strip().partition("\n")[0], 200), innermost(text)
    return first if first == inner else f"{first}: {inner}"


def innermost(text: str) -> str:
    """Give the innermost cause of what wasmtime says, without its number."""
    last = re.sub(r"^\d+: ", "", text.strip().rpartition("\n")[2].strip())
    return one_line(last, 200)


def _native(wasm: bytes, sha256: str, cache_dir: Path | None, bounds: Bounds) -> bytes:
    """Compile, unless it is known that this leads nowhere. Raises ModuleInvalid, CompileLimit."""
    rules = _rules(bounds)
    if refused := refusals.recall(cache_dir, sha256, rules):
        raise refused
    code, native, said = _ended(wasm, bounds)
    if not code:
        return native
    failure = _failure(code, said, bounds)
    if isinstance(failure, refusals.Refusal) and _lasts(code, said):
        refusals.keep(cache_dir, sha256, rules, failure)
    raise failure


def _ended(wasm: bytes, bounds: Bounds) -> tuple[int, bytes, str]:
    """Give the exit code of a child that compiles, the native code, and what it said. Raises ModuleInvalid, CompileLimit."""
    if not wasm.startswith(MAGIC):  # else wasmtime would read it as text
        raise ModuleInvalid(f"the module is no WebAssembly: it begins with {wasm[:4]!r} instead of {MAGIC!r}")
    command = [sys.executable, "-P", "-B", "-m", __name__, str(bounds.cpu_s), str(bounds.memory_bytes)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=_environment()) as child:
        try:
            native, said = child.communicate(wasm, timeout=bounds.wall_s)
        except subprocess.TimeoutExpired:
            raise CompileLimit(f"compiling the module takes longer than {bounds.wall_s:g} s") from None
        finally:
            child.kill()
    return child.returncode, native, said.decode(errors="replace").strip()


def _loaded(native: bytes | None) -> wasmtime.Module | None:
    """Load compiled code, if it is of this processor and this wasmtime."""
    if native is None:
        return None
    try:
        return wasmtime.Module.deserialize(engine().native, native)
    except wasmtime.WasmtimeError:
        return None


def _environment() -> dict[str, str]:
    """Give what the child's Python needs: it finds packages where this one does.

    Arenas and threads are few, for each takes address space, which is limited.
    """
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    threads = str(min(MOST_THREADS, os.cpu_count() or 1))
    few = {"RAYON_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return {**kept, **few, "PYTHONPATH": os.pathsep.join([str(APP), *filter(os.path.isabs, sys.path)])}


def _failure(code: int, said: str, bounds: Bounds) -> Exception:
    """Say why the child has failed; a negative code is a signal."""
    if code == INVALID:
        return ModuleInvalid(
            one_line(said, 2000) if said.startswith("the module") else f"the module is not usable: {reason(said)}"
        )
    if code == -signal.SIGXCPU:
        return CompileLimit(f"compiling the module takes more than {bounds.cpu_s} s of CPU")
    if code == -signal.SIGKILL or any(sign in said for sign in _NO_MEMORY):
        return CompileLimit(f"compiling the module takes more than {bounds.memory_bytes >> 20} MB of memory")
    last = one_line(said, 300) or "nothing was said"
    if code < 0:  # of vectors in a signature, say, wasmtime makes an end of the process
        return ModuleInvalid(f"the module ends the compiler with {signal.Signals(-code).name}: {last}")
    return RuntimeError(f"the compiler has ended with exit code {code}: {one_line(said[-300:], 300)}")


def _lasts(code: int, said: str) -> bool:
    """Would it end so again? A signal from elsewhere, and a lack of memory or threads, may come of a busy machine."""
    if code == -signal.SIGXCPU or said.startswith("the module"):
        return True
    return code in (INVALID, 1, -signal.SIGABRT) and not any(sign in said for sign in _MAY_PASS)


def _rules(bounds: Bounds) -> str:
    """Name what decides whether a module is refused, besides the configuration of wasmtime."""
    hard = [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    sources = [Path(str(path)).read_bytes() for path in (__file__, abi.__file__)]
    return hashlib.sha256(repr((bounds, hard, sources)).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
