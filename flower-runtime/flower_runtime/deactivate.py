"""Take a killed node offline at once, with its own key.

`python -m flower_runtime.deactivate --superlink HOST:PORT (--root-certificates CA | --insecure) --key FILE --node-id N`

SuperLink holds a killed node for online for up to 60 s and refuses its restart meanwhile. Exit code 0 when the node is
offline afterwards, also when it was before; 1 with a sentence else.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from flower_runtime.environment import QUIET


def main() -> int:
    """Ask SuperLink once; the answer is the exit code."""
    parser = argparse.ArgumentParser(prog="flower_runtime.deactivate", description="Takes a killed node offline.")
    parser.add_argument("--superlink", required=True, metavar="HOST:PORT")
    security = parser.add_mutually_exclusive_group(required=True)
    security.add_argument("--root-certificates", type=Path, metavar="CA")
    security.add_argument("--insecure", action="store_true")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the node's private key, OpenSSH format")
    parser.add_argument("--node-id", type=int, required=True, metavar="N")
    args = parser.parse_args()
    os.environ.update(QUIET)
    try:
        certificates = args.root_certificates.read_bytes() if args.root_certificates else None
        key = args.key.read_bytes()
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    try:
        print(deactivate(args.superlink, certificates, key, args.node_id))
    except (httpx.HTTPError, ValueError) as error:
        print(f"node {args.node_id} could not be deactivated: {_sentence(error)}")
        return 1
    return 0


def deactivate(superlink: str, certificates: bytes | None, key: bytes, node_id: int) -> str:
    """Set the node offline and say what was done. certificates: PEM, None for plain HTTP.

    Raises httpx.HTTPError when SuperLink is away or refuses, ValueError for a key that is no EC key in OpenSSH format.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private = load_ssh_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an elliptic-curve key")
    signers: list[Any] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, private.public_key()),
    ]
    client = FleetHttpClient.from_server_address(superlink, certificates is None, certificates, signers)
    try:
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except httpx.HTTPStatusError as error:
        refusal = FlowerError.from_json(error.response.text)
        if refusal is not None and refusal.code == ApiErrorCode.FLEET_NODE_DEACTIVATION_FAILED:
            return f"node {node_id} was not online"
        raise
    finally:
        client.close()
    return f"node {node_id} is offline now"


def _sentence(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.text[:200]}"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
