"""A module by the reference in the run config, if its bytes are those that are pinned and the site allows them.

Errors: ConfigError for a reference or a list that is none; ModuleMissing, ModuleChanged, ModuleTooLarge, ModuleInvalid,
ModuleNotAllowed.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from flower_app.config import ConfigError
from flower_app.workloads.data_dirs import DataMissing, data_dirs, find_data
from flower_app.workloads.wasm.faults import ModuleChanged, ModuleInvalid, ModuleMissing, ModuleNotAllowed, ModuleTooLarge
from flower_app.workloads.wasm.kept import keep, read_kept
from flower_app.workloads.wasm.manifest import module_layer
from flower_app.workloads.wasm.registry import Registry
from flower_app.workloads.wasm.task import Limits

ALLOWED = "ESPALIER_WASM_MODULES"
OWN_GUEST = Path(__file__).with_name("task.wasm.json")
FORMS = (
    "nothing for the app's own, fab:NAME@sha256:HEX, file:PATH@sha256:HEX, oci://HOST/REPOSITORY@sha256:HEX, or "
    "data:application/wasm;base64,…"
)
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_FILE = re.compile(r"(file|fab):([^@]+)@sha256:([0-9a-f]{64})")
_HOST = r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REPOSITORY = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*"
_OCI = re.compile(f"oci://({_HOST})/({_REPOSITORY})@sha256:([0-9a-f]{{64}})")
_INLINE = "data:application/wasm;base64,"


@dataclass(frozen=True)
class Found:
    """A module's bytes, their sha256, and where they came from, in words."""

    wasm: bytes
    sha256: str
    origin: str


def allowed_modules(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Give the digests that the site allows; none: those alone that the app brings. Raises ConfigError."""
    told = [part.strip() for part in environment.get(ALLOWED, "").split(",") if part.strip()]
    found = [_DIGEST.fullmatch(part) for part in told]
    for part, digest in zip(told, found, strict=True):
        if digest is None:
            raise ConfigError(f"{ALLOWED} needs digests as sha256:HEX with 64 digits 0-9a-f, by commas; {part[:80]!r} is none")
    return frozenset(digest[1] for digest in found if digest)


def find_module(reference: str, allowed: frozenset[str], cache_dir: Path | None, limits: Limits) -> Found:
    """Find the module that a run names.

    reference: one of FORMS. allowed: sha256s; none: what the app brings, which is its own and fab:…. cache_dir: where to keep
    what a registry gave; None keeps nothing. A site that allows nothing else opens no connection.
    """
    if not reference:
        return _own_guest(allowed, limits)
    if named := _FILE.fullmatch(reference):
        kind, name, pin = named.groups()
        return (_in_app if kind == "fab" else _in_data)(name, pin, allowed, limits)
    if named := _OCI.fullmatch(reference):
        host, repository, pin = named.groups()
        return _in_registry(host, repository, pin, allowed, cache_dir, limits)
    if reference.startswith(_INLINE):
        return _in_run_config(reference.removeprefix(_INLINE), allowed, limits)
    raise ConfigError(f"wasm-module needs to be {FORMS}; got {reference[:100]!r}")


def app_root(search: Sequence[str] | None = None) -> Path:
    """Give the root folder of the app that runs.

    search: sys.path, unless said. Flower puts an unpacked FAB in front of it; an app of somebody else's imports us from where we
    are installed, which is no part of it. Without a FAB it is the folder that holds our package.
    """
    for entry in sys.path if search is None else search:
        project = Path(entry, "pyproject.toml")
        try:
            if "app" in tomllib.loads(project.read_text()).get("tool", {}).get("flwr", {}):
                return project.parent
        except (OSError, ValueError):
            continue  # most entries hold packages, and no app
    return Path(__file__).parents[3]


def _own_guest(allowed: frozenset[str], limits: Limits) -> Found:
    origin = "the app's own"
    try:
        wasm, pin = _unpacked(OWN_GUEST, limits, origin)
    except ModuleMissing as missing:
        raise ModuleMissing(f"{missing}; python wasm-task/build.py makes it") from None
    found = _pinned(wasm, pin, origin)
    _see_that_it_is_allowed(pin, origin, allowed, from_app=True)
    return found


def _in_app(name: str, pin: str, allowed: frozenset[str], limits: Limits) -> Found:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ConfigError(f'wasm-module: "{name}" leads out of the app: name what lies below its root, without / in front and ..')
    origin = f"{name}.wasm.json of the app"
    _see_that_it_is_allowed(pin, origin, allowed, from_app=True)
    wasm, _ = _unpacked(app_root() / f"{name}.wasm.json", limits, origin)
    return _pinned(wasm, pin, origin)


def _in_data(name: str, pin: str, allowed: frozenset[str], limits: Limits) -> Found:
    origin = f"{name} of the site's data folders"
    _see_that_it_is_allowed(pin, origin, allowed)
    try:
        path = find_data(name, data_dirs(), "put the module there, as wasm-module names it")
    except DataMissing as missing:
        raise ModuleMissing(str(missing)) from missing
    return _pinned(_read(path, limits.module_bytes, limits, origin), pin, origin)


def _in_run_config(text: str, allowed: frozenset[str], limits: Limits) -> Found:
    origin = "the run config"
    _see_its_size(len(text) // 4 * 3 - text[-2:].count("="), limits, origin)
    try:
        wasm = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ConfigError(f"wasm-module: what follows base64, is no base64: {error}") from error
    sha256 = hashlib.sha256(wasm).hexdigest()
    _see_that_it_is_allowed(sha256, origin, allowed)
    return Found(wasm, sha256, origin)


def _in_registry(host: str, repository: str, pin: str, allowed: frozenset[str], cache_dir: Path | None, limits: Limits) -> Found:
    origin = f"oci://{host}/{repository}@sha256:{pin}"
    if not allowed:
        raise ModuleNotAllowed(
            f"this site takes no module of a registry: for {origin} its client server needs WASM_MODULES=sha256:… with the "
            "digest of the manifest's layer, and its SuperNode a restart"
        )
    with Registry(host, repository) as registry:
        manifest = read_kept(cache_dir, pin, "json") or registry.manifest(pin)
        layer = module_layer(manifest, origin)
        _see_that_it_is_allowed(layer.sha256, origin, allowed)
        _see_its_size(layer.size_bytes, limits, origin)
        wasm = read_kept(cache_dir, layer.sha256) or registry.blob(layer)
    try:
        keep(cache_dir, manifest, "json")
        keep(cache_dir, wasm)
    except OSError as error:
        print(f"{origin} is fetched again next time, for it cannot be kept: {error}", flush=True)
    return Found(wasm, layer.sha256, origin)


def _see_that_it_is_allowed(sha256: str, origin: str, allowed: frozenset[str], *, from_app: bool = False) -> None:
    """Raise ModuleNotAllowed. An app's Python code may do more than its modules, so they need no list, but keep to one."""
    if sha256 in allowed or (from_app and not allowed):
        return
    needs = f"sha256:{sha256} in its WASM_MODULES too" if allowed else f"WASM_MODULES=sha256:{sha256}"
    raise ModuleNotAllowed(
        f"this site does not allow module sha256:{sha256} ({origin}): its client server needs {needs}, and its SuperNode "
        "a restart"
    )


def _unpacked(path: Path, limits: Limits, origin: str) -> tuple[bytes, str]:
    """Read {"sha256", "wasm"}, the form in which a module travels in a FAB; gives the bytes and the sha256 that is said."""
    text = _read(path, limits.module_bytes // 3 * 4 + 4096, limits, origin)
    try:
        told = json.loads(text)
        wasm, sha256 = base64.b64decode(told["wasm"], validate=True), str(told["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModuleInvalid(f'{path} is not {{"sha256": HEX, "wasm": BASE64}}: {error!r:.200}') from error
    _see_its_size(len(wasm), limits, origin)
    return wasm, sha256


def _read(path: Path, most_bytes: int, limits: Limits, origin: str) -> bytes:
    if not path.is_file():  # a pipe would never end
        raise ModuleMissing(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise ModuleMissing(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise _too_large(limits, origin)
    return content


def _see_its_size(size_bytes: int, limits: Limits, origin: str) -> None:
    if size_bytes > limits.module_bytes:
        raise _too_large(limits, origin)


def _too_large(limits: Limits, origin: str) -> ModuleTooLarge:
    return ModuleTooLarge(f"the module ({origin}) has more than {limits.module_bytes} bytes, which is what a site takes at most")


def _pinned(wasm: bytes, pin: str, origin: str) -> Found:
    sha256 = hashlib.sha256(wasm).hexdigest()
    if sha256 != pin:
        raise ModuleChanged(f"the module ({origin}) has sha256 {sha256}, and {pin} is pinned")
    return Found(wasm, sha256, origin)
