"""Flower's Control API, and the one module that touches it: start, list, stop a run; register, list, unregister a node.

Flower's client is synchronous, so each call runs in a thread. Ids are uint64 at Flower and text everywhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import user_config_from_proto, user_config_to_proto
from flwr.proto import control_pb2 as pb
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from admin_server.errors import FlowerRefused, PublicKeyInvalid, SuperlinkUnreachable

T = TypeVar("T")
PAGE = 100
RUN_ID_KEY = "current-run-id"
"""The key of the run config by which our StartRun names its run."""


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink sees it. status: pending, starting, running, finished; sub_status only when finished."""

    flower_run_id: str
    series_id: str
    fab_id: str
    fab_hash: str
    status: str
    sub_status: str
    details: str
    config: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> FlowerRun:
        return cls(
            str(run.run_id),
            str(run.series_id),
            run.fab_id,
            run.fab_hash,
            run.status.status,
            run.status.sub_status,
            run.status.details,
            dict(user_config_from_proto(run.override_config)),
        )

    @property
    def run_id(self) -> str:
        """The run of ours that its config names; "" where it names none."""
        return str(self.config.get(RUN_ID_KEY, ""))


@dataclass(frozen=True)
class FlowerNode:
    """A SuperNode as the SuperLink sees it. status: registered, online, offline, unregistered."""

    flower_node_id: str
    status: str
    public_key: bytes

    @classmethod
    def of(cls, node: NodeInfo) -> FlowerNode:
        return cls(str(node.node_id), node.status, node.public_key)


class Flower:
    """A client of one SuperLink's Control API. Close it before the SuperLink is stopped.

    With TLS one idle keep-alive connection makes the SuperLink's own TERM hang for more than 30 s.
    """

    def __init__(self, address: str, ca_pem: bytes | None) -> None:
        self._client = ControlHttpClient.from_server_address(address, ca_pem is None, ca_pem, [])
        self._address = address

    async def start_run(
        self, fab: bytes, config: Mapping[str, Any], federation: str = "", series_id: str | None = None
    ) -> tuple[str, str]:
        """Submit a run; give its Flower run id and series id. Raises FlowerRefused, SuperlinkUnreachable."""
        request = pb.StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(fab).hexdigest(), content=fab),
            override_config=user_config_to_proto(dict(config)),
            federation=federation,
        )
        if series_id is not None:
            request.series_id = int(series_id)
        return await self._start(request)

    async def start_stored_run(self, fab_id: str, fab_hash: str, config: Mapping[str, Any], series_id: str) -> tuple[str, str]:
        """Start another run of a series with the FAB that the SuperLink keeps of an earlier one; else as start_run."""
        request = pb.StartRunRequest(
            app_spec=f"@{fab_id}",
            fab=Fab(hash_str=fab_hash),
            override_config=user_config_to_proto(dict(config)),
            series_id=int(series_id),
        )
        return await self._start(request)

    async def _start(self, request: pb.StartRunRequest) -> tuple[str, str]:
        answer = await self._call(lambda: self._client.StartRun(request))
        if not answer.HasField("run_id"):  # a FAB over 10 MB: HTTP 200 and an empty message
            raise FlowerRefused("The SuperLink took the app and started no run; a FAB may have at most 10 MB.", code=None)
        return str(answer.run_id), str(answer.series_id)

    async def runs(self, skip: int = 0) -> list[FlowerRun]:
        """List a page of up to 100 runs, newest first."""
        answer = await self._call(lambda: self._client.ListRuns(pb.ListRunsRequest(limit=PAGE, skip=skip)))
        return [FlowerRun.of(run) for run in sorted(answer.run_dict.values(), key=lambda run: run.pending_at, reverse=True)]

    async def run(self, flower_run_id: str) -> FlowerRun | None:
        """Look up one run; None when the SuperLink does not know it."""
        try:
            answer = await self._call(lambda: self._client.ListRuns(pb.ListRunsRequest(run_id=int(flower_run_id))))
        except FlowerRefused as refused:
            if refused.facts.get("code") == 16:
                return None
            raise
        return FlowerRun.of(answer.run_dict[int(flower_run_id)])

    async def stop_run(self, flower_run_id: str) -> bool:
        """End a run at once; False when it had ended or is not known."""
        try:
            await self._call(lambda: self._client.StopRun(pb.StopRunRequest(run_id=int(flower_run_id))))
        except FlowerRefused as refused:
            if refused.facts.get("code") in (16, 18):
                return False
            raise
        return True

    async def register_node(self, key: bytes, name: str) -> str:
        """Register a public key (PEM); give the Flower node id. Raises PublicKeyInvalid for one that is or was registered."""
        try:
            answer = await self._call(lambda: self._client.RegisterNode(pb.RegisterNodeRequest(public_key=key, name=name)))
        except FlowerRefused as refused:
            if refused.facts.get("code") == 23:
                raise PublicKeyInvalid("This key is, or was, another node's; make a new one.") from None
            raise
        return str(answer.node_id)

    async def unregister_node(self, flower_node_id: str) -> None:
        """Take a node out for good; its key stays taken. A node that is not known is no error."""
        try:
            await self._call(lambda: self._client.UnregisterNode(pb.UnregisterNodeRequest(node_id=int(flower_node_id))))
        except FlowerRefused as refused:
            if refused.facts.get("code") != 24:
                raise

    async def federations(self) -> list[str]:
        """Name the federations of the SuperLink; an open-source one has its default alone."""
        answer = await self._call(lambda: self._client.ListFederations(pb.ListFederationsRequest()))
        return [federation.name for federation in answer.federations]

    async def nodes(self) -> list[FlowerNode]:
        answer = await self._call(lambda: self._client.ListNodes(pb.ListNodesRequest()))
        return [FlowerNode.of(node) for node in answer.nodes_info]

    async def close(self) -> None:
        """Close the keep-alive connections."""
        await asyncio.to_thread(self._client.close)

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except httpx.HTTPStatusError as answer:
            code, detail = read_error(answer.response)
            raise FlowerRefused(f"The SuperLink answered: {detail}", code=code) from None
        except (httpx.HTTPError, RuntimeError) as failed:  # RuntimeError: the client was closed under a waiting thread
            raise SuperlinkUnreachable(f"The SuperLink at {self._address} cannot be reached: {failed}.") from None


def read_error(response: httpx.Response) -> tuple[int | None, str]:
    """Read Flower's error body `{"code": 15, "detail": "…"}`."""
    if "json" not in response.headers.get("content-type", ""):
        return None, f"HTTP {response.status_code} {response.text[:200]}".strip()
    body = response.json()
    return body.get("code"), str(body.get("detail", f"HTTP {response.status_code}"))


def pem_of(public_key: str) -> bytes:
    """Turn an OpenSSH line into the PEM that the Control API takes. Raises ValueError for any but a NIST curve's key."""
    key = load_ssh_public_key(public_key.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("The public key must be an elliptic-curve key (P-256, P-384 or P-521).")
    pem: bytes = public_key_to_bytes(key)
    return pem
