"""ServerApp tasks of a SuperLink, asked for over its Runtime API, and the series of a run, over its Control API."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


class Unreachable(Exception):
    """SuperLink did not answer, or refused."""


@dataclass(frozen=True)
class Series:
    """What a run belongs to: series_id is the same for all its attempts."""

    series_id: str
    fab_hash: str


@dataclass(frozen=True)
class ServerAppTask:
    """A task that is ours now: the ServerApp must be started within 30 s."""

    run_id: int
    token: str = field(repr=False)


class Tasks:
    """Asks one SuperLink. Each call is one request; raises Unreachable when it fails."""

    def __init__(self, address: str, root_certificates: Path | None, secret_file: Path | None) -> None:
        from flwr.supercore.auth import load_superexec_auth_secret
        from flwr.supercore.constant import TaskType
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
        from flwr.supercore.runtime import RuntimeHttpClient

        certificates = root_certificates.read_bytes() if root_certificates else None
        interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
        secret = load_superexec_auth_secret(secret_file=str(secret_file)) if secret_file else None
        if secret:
            signed = {"/flwr.proto.Runtime/AcquireTask"}
            interceptors.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=signed))
        insecure = certificates is None
        self._runtime = RuntimeHttpClient.from_server_address(address, insecure, certificates, interceptors)
        self._control = ControlHttpClient.from_server_address(address, insecure, certificates, [])
        self._task_type = TaskType.SERVER_APP

    def acquire(self) -> ServerAppTask | None:
        """Take the oldest ServerApp task that waits; None when none does."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest

        try:
            answer = self._runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[self._task_type]))
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(_sentence(error)) from error
        if not answer.HasField("task") or not answer.token:
            return None
        return ServerAppTask(answer.task.run_id, answer.token)

    def series_of(self, run_id: int) -> Series:
        """Look a run's series up."""
        from flwr.proto.control_pb2 import ListRunsRequest

        try:
            answer = self._control.ListRuns(ListRunsRequest(run_id=run_id))
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(_sentence(error)) from error
        if run_id not in answer.run_dict:
            raise Unreachable(f"run {run_id} is not in its list")
        found = answer.run_dict[run_id]
        return Series(str(found.series_id), found.fab_hash)


def _sentence(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.text[:200]}"
    return str(error) or type(error).__name__
