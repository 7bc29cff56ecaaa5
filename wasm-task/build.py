"""Build the guest: `python wasm-task/build.py` writes the app's task.wasm.json. Needs ziglang of PyPI, and nothing else.

    --check     write nothing: is task.wasm.json what this source gives?
    --to DIR    write fl1.wasm and propeller.wasm there instead

The same source gives the same bytes in each folder and on each machine. A failure is a sentence on stderr and exit code 1.
"""

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKED = HERE.parent / "flower-app" / "flower_app" / "workloads" / "wasm" / "task.wasm.json"
ZIG = "0.17.1"
SHARED = ("chain.c", "fault.c", "hyperparameters.c", "json.c", "memory.c", "network.c", "output.c", "passes.c", "training.c")
ABIS = {"fl1": ("fl1.c", "tensors.c"), "propeller": ("propeller.c", "propeller_json.c")}
"""What each module has beside what both share."""
FLAGS = (
    "-target", "wasm32-freestanding", "-std=c17", "-O3", "-msimd128", "-Wall", "-Wextra", "-Werror",
    "-ffp-contract=off",  # the same bits from each compiler
    "-fno-builtin",  # no memcpy, which is not there
    "-nostdlib", "-s", "-Wl,--no-entry",
)  # fmt: skip


class BuildFailed(RuntimeError):
    """There is no ziglang of the version that the digest is for, or the source does not compile."""


def build(abi: str, source: Path = HERE) -> bytes:
    """Build the module that speaks an ABI, one of ABIS, from a folder's source. Raises BuildFailed.

    Zig's cache goes to ZIG_GLOBAL_CACHE_DIR, or where that is not set to a folder that is gone afterwards.
    """
    _see_that_zig_is_there()
    with tempfile.TemporaryDirectory(prefix="espalier-guest-") as scratch:
        target = Path(scratch, "guest.wasm")
        own = {"ZIG_LOCAL_CACHE_DIR": scratch, "ZIG_GLOBAL_CACHE_DIR": os.environ.get("ZIG_GLOBAL_CACHE_DIR") or scratch}
        # Names without a folder: none gets into the module.
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *ABIS[abi], *SHARED, "-o", str(target)]
        done = subprocess.run(command, cwd=source, env={**os.environ, **own}, capture_output=True, text=True)
        if done.returncode:
            raise BuildFailed(f"{abi}.c and what it needs do not compile:\n{done.stderr}")
        return target.read_bytes()


def packed(wasm: bytes) -> str:
    """Give the form in which the app brings a module, since a FAB takes no .wasm."""
    told = {"abi": "fl/1", "ziglang": ZIG, "sha256": hashlib.sha256(wasm).hexdigest(), "wasm": base64.b64encode(wasm).decode()}
    return json.dumps(told, indent=2) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Build and write; or check, or build for another folder."""
    args = _parse(argv)
    try:
        if args.to is not None:
            args.to.mkdir(parents=True, exist_ok=True)
            for abi in ABIS:
                (args.to / f"{abi}.wasm").write_bytes(build(abi))
            return 0
        made = packed(build("fl1"))
        if args.check and (not PACKED.is_file() or PACKED.read_text("utf-8") != made):
            raise BuildFailed(f"{PACKED.name} is not what this source gives: run python wasm-task/build.py")
        if not args.check:
            PACKED.write_text(made, "utf-8")
    except (BuildFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{PACKED.name}: sha256 {json.loads(made)['sha256']}")
    return 0


def _see_that_zig_is_there() -> None:
    try:
        found = version("ziglang")
    except PackageNotFoundError:
        found = "none"
    if found != ZIG:
        raise BuildFailed(f"the guest is built by ziglang {ZIG}, and here is {found}: pip install ziglang=={ZIG}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python wasm-task/build.py", description="Build the module that trains in the sandbox.")
    parser.add_argument("--check", action="store_true", help="write nothing: is task.wasm.json what this source gives?")
    parser.add_argument("--to", type=Path, metavar="DIR", help="write fl1.wasm and propeller.wasm there instead")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
