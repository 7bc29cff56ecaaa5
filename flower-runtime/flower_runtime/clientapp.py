"""One ClientApp for one message: what flwr-clientapp does, in this process, tied to its SuperNode.

`python -m flower_runtime.clientapp PARENT_PID HOST:PORT TOKEN_FILE`, started by flower_runtime.supernode. Flower's function is
called, not its command, which imports a whole SuperNode first: 2.2 s of CPU before a message is looked at, instead of 1.3 s.
"""

import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flower_runtime.parent import die_with_parent
from flower_runtime.patch import ask_objects_soon, log_plainly, original, replace, retry_soon
from flower_runtime.pins import PINS
from flower_runtime.procfile import write_json
from flower_runtime.selfcheck import faults

_RUN = "flwr.supernode.runtime.run_clientapp"
_LOAD = "flwr.clientapp.utils"


def main() -> None:
    """Work on the message that the token file stands for, and exit as flwr-clientapp does."""
    parent_pid, runtime_api, token_file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    die_with_parent(parent_pid)
    changed = prepare()
    if changed:
        print(f"this Flower is not the one we patch ({'; '.join(changed)}): the ClientApp runs as stock", flush=True)
        sys.argv = ["flwr-clientapp", "--insecure", "--runtime-api-address", runtime_api, "--token-file", str(token_file)]
        original("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp")()
    else:
        work(runtime_api, token_file, [])


def prepare() -> list[str]:
    """Import Flower's ClientApp and put our replacements into it; if it is not as pinned, only say what differs."""
    changed = faults(PINS["clientapp"])
    if not changed:
        log_plainly()
        retry_soon()
        ask_objects_soon(_RUN, "pull_and_inflate_object_from_tree")
        _let_an_apps_own_modules_win()
    return changed


def work(runtime_api: str, token_file: Path, preloaded: Collection[str]) -> None:
    """Run the ClientApp, once prepared, and leave beside the token file which modules it needed beyond the preloaded."""
    token = token_file.read_text(encoding="ascii")
    token_file.unlink()
    sys.argv = ["flwr-clientapp"]
    try:
        original(_RUN, "run_clientapp")(
            runtime_api_address=runtime_api, token=token, insecure=True, runtime_dependency_install=False
        )
    finally:
        _leave_modules(token_file.with_name("modules.json"), preloaded)


def installed_modules() -> list[str]:
    """Name the imported modules of installed packages, parents first; an app's own modules are not among them.

    Nor are second names of modules, which cannot be imported: transformers and Cython give some.
    """
    roots = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    found = []
    for name, module in list(sys.modules.items()):
        about = getattr(module, "__dict__", {})
        file, spec = about.get("__file__"), about.get("__spec__")
        if isinstance(file, str) and file.startswith(roots) and getattr(spec, "name", None) == name:
            found.append(name)
    return found


def forget_modules_of(app: Path) -> None:
    """Forget imported modules that an app brings along itself, as it would find its own first in a new Python."""
    own = {each.name for each in app.iterdir() if (each / "__init__.py").exists()}
    own |= {each.stem for each in app.glob("*.py")}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if name.partition(".")[0] in own and not (isinstance(file, str) and Path(file).is_relative_to(app)):
            del sys.modules[name]


def _let_an_apps_own_modules_win() -> None:
    load = original(_LOAD, "load_app")

    def load_app(reference: str, error: type[Exception], project_dir: Path, *rest: Any) -> Any:
        forget_modules_of(Path(project_dir))
        return load(reference, error, project_dir, *rest)

    replace(_LOAD, "load_app", load_app)


def _leave_modules(path: Path, preloaded: Collection[str]) -> None:
    try:
        needed = installed_modules()
        if not set(needed) <= set(preloaded):
            write_json(path, needed)
    except Exception as error:  # how the ClientApp ended must not depend on this
        print(f"{path.name} is not written: {error!r:.200}", flush=True)


if __name__ == "__main__":
    main()
