"""A real SuperNode under a real launcher at a real SuperLink: what our stand-in only pretends."""

import asyncio
import os
import signal
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.silence import is_connected
from control_plane.environment import child_environment
from control_plane.probes import http_ok
from control_plane.process import SupervisedProcess
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.client_server.conftest import SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn, appeared

with warnings.catch_warnings():  # Flower's command line library warns on import
    warnings.simplefilter("ignore", DeprecationWarning)
    from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key


class RegisteringAdmin(AdminStandIn):
    """Registers the keys that it lets in at a SuperLink."""

    def __init__(self, control: ControlHttpClient) -> None:
        super().__init__()
        self._control = control

    async def _enrol(self, request: Request) -> Response:
        line = (await request.json())["public_key"]
        public_key = load_ssh_public_key(line.encode())
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        key = public_key_to_bytes(public_key)
        answer = await asyncio.to_thread(self._control.RegisterNode, RegisterNodeRequest(public_key=key, name="site-a"))
        fields = {"node_id": "n", "flower_node_id": str(answer.node_id), "node_token": "node-token-1", "project_slug": "p"}
        self.enrolled.append({})
        fields["superlink_address"] = self.superlink_address
        return JSONResponse({**fields, "ca_certificate": self.ca_certificate, "insecure": False}, 201)


@pytest.fixture
async def registering_admin(
    tmp_path: Path, certificate: tuple[Path, Path], unused_tcp_port: int
) -> AsyncIterator[RegisteringAdmin]:
    address, (crt, key) = f"127.0.0.1:{unused_tcp_port}", certificate
    superlink = SupervisedProcess("superlink", tmp_path / "superlink", ready_timeout_s=60, grace_s=5)
    argv = [sys.executable, "-m", "flower_runtime.superlink", "--listen", address, "--"]
    argv += ["--ssl-ca-certfile", str(crt), "--ssl-certfile", str(crt), "--ssl-keyfile", str(key), "--isolation", "process"]
    argv += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    environment = child_environment({"FLWR_HOME": str(tmp_path / "superlink" / "flwr-home")})
    await superlink.start(argv, environment, ready=http_ok(f"https://{address}/health", crt))
    control = ControlHttpClient.from_server_address(address, False, crt.read_bytes(), [])
    stand_in = RegisteringAdmin(control)
    stand_in.superlink_address, stand_in.ca_certificate = address, crt.read_text()
    try:
        async with appeared(stand_in.listener):
            yield stand_in
    finally:
        control.close()
        await superlink.stop()


async def test_a_killed_supernode_is_back_at_once_under_the_same_id(
    sites: SiteMaker, registering_admin: RegisteringAdmin
) -> None:
    admin = registering_admin
    sites.commands, sites.patience = Commands(), Patience()
    port = int(admin.superlink_address.rpartition(":")[2])
    async with sites.open() as site:
        await site.enrol(admin.invitation())
        assert (await site.post("/supernode/start", {"partition_id": 0, "num_partitions": 1})).status_code == 202
        pid = await site.running(within_s=60)
        assert is_connected(pid, port)
        flower_node_id = (await site.get("/supernode"))["flower_node_id"]
        os.kill(pid, signal.SIGKILL)
        again = await site.running(not_pid=pid, within_s=60)
        described = await site.get("/supernode")
        assert (described["flower_node_id"], described["restarts"]) == (flower_node_id, 1)
        assert f"SuperNode ID: {flower_node_id}" in (site.folder / "supernode" / "supernode.log").read_text()
        nodes = admin._control.ListNodes(ListNodesRequest()).nodes_info
        assert [(str(node.node_id), node.status) for node in nodes] == [(flower_node_id, "online")]
        # Between two polls the connection stays: a node at rest is not taken for a silent one.
        for _ in range(50):
            assert is_connected(again, port)
            await asyncio.sleep(0.05)
        assert (await site.post("/supernode/stop")).status_code == 202
        await eventually(lambda: site.site.supernode.state == "stopped", within_s=30)
    assert [status for _, status in admin.statuses()] == [
        "starting",
        "running",
        "failed",
        "starting",
        "running",
        "stopping",
        "stopped",
    ]
