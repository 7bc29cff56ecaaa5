"""From a start request to a command line: what is resolved, checked and refused before anything starts."""

import re
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.environment import child_environment
from control_plane.settings import is_loopback

from client_server.errors import NodeRemoved, NotEnrolled, StartRequestRefused
from client_server.flags import check_extra_args, node_config
from client_server.folder import SiteFolder
from client_server.hardware import usable_cores
from client_server.identity import Identity
from client_server.schemas import SupernodeStartRequest
from client_server.settings import Settings


@dataclass(frozen=True)
class Commands:
    """The programs of flower-runtime that are started; tests give others."""

    supernode: Sequence[str] = (sys.executable, "-m", "flower_runtime.supernode")
    deactivate: Sequence[str] = (sys.executable, "-m", "flower_runtime.deactivate")


@dataclass(frozen=True)
class Target:
    """A SuperLink and how it is spoken to; key None: without TLS and without a node key.

    node_name: as enrolled, so that ClientApps go by the name that the coordinator shows.
    """

    node_name: str
    superlink: str
    root_certificates: Path | None
    key: Path | None

    @property
    def host(self) -> str:
        """The SuperLink's host."""
        return split_address(self.superlink)[0]

    @property
    def port(self) -> int:
        """The SuperLink's port."""
        return split_address(self.superlink)[1]

    @property
    def flags(self) -> list[str]:
        """The flags that flower_runtime.deactivate and flower-supernode share."""
        trust = ["--insecure"] if self.root_certificates is None else ["--root-certificates", str(self.root_certificates)]
        return ["--superlink", self.superlink, *trust]


def resolve(request: SupernodeStartRequest, identity: Identity | None, settings: Settings) -> Target:
    """Find out which SuperLink is meant and what is trusted there; refuses what could not start.

    Raises NotEnrolled, NodeRemoved, StartRequestRefused.
    """
    if identity is None:
        raise NotEnrolled
    if identity.removed_at is not None:
        raise NodeRemoved
    check_extra_args(request.extra_args)
    node_config(request, identity.display_name)
    if request.clientappio_api_address is not None:
        check_own_address(request.clientappio_api_address)
    address = request.superlink_address or identity.superlink_address
    host, _ = split_address(address)
    if request.insecure:
        if not is_loopback(host):
            raise StartRequestRefused(f"insecure is for a SuperLink on loopback only; {address} is not.", field="insecure")
        if request.certificates_path is not None:
            raise StartRequestRefused("insecure and certificates_path exclude each other.", field="certificates_path")
        return Target(identity.display_name, address, None, None)
    if identity.insecure and request.superlink_address is None and request.certificates_path is None:
        raise StartRequestRefused(
            "The coordinator's SuperLink has no TLS: say insecure: true to go along with that.", field="insecure"
        )
    certificates = _certificates(request.certificates_path, settings.folder)
    return Target(identity.display_name, address, certificates, settings.folder.node_key)


def split_address(address: str) -> tuple[str, int]:
    """Split host:port, [v6]:port too; raises StartRequestRefused."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host.isprintable() or not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536 or "/" in host:
        raise StartRequestRefused(f"{address[:200]!r} is not host:port.", field="superlink_address")
    return host, int(port)


def check_own_address(address: str) -> None:
    """Refuse an address for the SuperNode's own API that is off loopback: this API has no login."""
    host, _ = split_address(address)
    if host != "127.0.0.1":
        raise StartRequestRefused(
            "clientappio_api_address: this API has no login and stays on 127.0.0.1.", field="clientappio_api_address"
        )


def check_own_port(request: SupernodeStartRequest) -> None:
    """Refuse an address for the SuperNode's own API whose port is in use, before there is a SuperNode that uses it."""
    if request.clientappio_api_address is None:
        return
    _, port = split_address(request.clientappio_api_address)
    if not is_free(port):
        raise StartRequestRefused(f"clientappio_api_address: port {port} is in use.", field="clientappio_api_address")


def is_free(port: int) -> bool:
    """Say whether a port of 127.0.0.1 can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_port(request: SupernodeStartRequest, stored: int | None) -> int:
    """Choose the port of the SuperNode's own API: the one asked for, the one it had, or a free one."""
    if request.clientappio_api_address is not None:
        return split_address(request.clientappio_api_address)[1]
    if stored is not None and is_free(stored):
        return stored
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def supernode_argv(
    command: Sequence[str], request: SupernodeStartRequest, target: Target, port: int, settings: Settings
) -> list[str]:
    """Write the command line of flower_runtime.supernode; no secret is in it, keys are named by their files."""
    folder = settings.folder
    launcher = [
        *("--state-dir", str(folder.supernode)),
        *("--wanted-file", str(folder.wanted)),
        *("--cache-dir", str(folder.cache)),
        *("--forward-logs", settings.forward_logs),
        *("--node-name", target.node_name),
        *(() if settings.warm_clientapps else ("--cold",)),
    ]
    key = [] if target.key is None else ["--auth-supernode-private-key", str(target.key)]
    own_api = ["--host", "127.0.0.1", "--port", str(port)]
    config = ["--node-config", node_config(request, target.node_name)]
    return [*command, *launcher, "--", *target.flags, *key, *config, *own_api, *request.extra_args]


def deactivate_argv(command: Sequence[str], target: Target, flower_node_id: str) -> list[str]:
    """Write the command line of flower_runtime.deactivate."""
    return [*command, *target.flags, "--key", str(target.key), "--node-id", flower_node_id]


def supernode_environment(settings: Settings) -> Mapping[str, str]:
    """Build the SuperNode's environment, which its ClientApps inherit through an allow-list of its own.

    Sites of one machine share its cores. OMP_WAIT_POLICY=PASSIVE: they otherwise spend their time spinning for each other's.
    """
    threads = str(settings.client_threads or max(1, usable_cores() // settings.folder.count_at_work()))
    return child_environment(
        {
            "FLWR_HOME": str(settings.folder.flwr_home),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "ESPALIER_WASM_MODULES": ",".join(settings.wasm_modules),
            **settings.handed_on,
        }
    )


def _certificates(path: str | None, folder: SiteFolder) -> Path:
    file = folder.ca_certificate
    try:
        if path is not None:
            file = Path(path).expanduser().absolute()
            file = file / "ca.crt" if file.is_dir() else file
        ssl.create_default_context(cafile=str(file))
    except FileNotFoundError as error:
        raise StartRequestRefused(f"certificates_path: there is no file {file}.", field="certificates_path") from error
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, or whose ~user is unknown
        told = f"certificates_path: {file if path is None else path} holds no PEM certificate."
        raise StartRequestRefused(told, field="certificates_path") from error
    return file
