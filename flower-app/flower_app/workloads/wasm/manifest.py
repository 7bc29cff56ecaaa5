"""What a manifest of an OCI registry says of the module that it stands for.

Source: https://github.com/opencontainers/image-spec/blob/main/manifest.md.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from flower_app.workloads.wasm.faults import ModuleInvalid

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MOST_MANIFEST_BYTES = 4 << 20
"""As many as every registry needs to take (distribution-spec, "Pushing Manifests")."""


@dataclass(frozen=True)
class Layer:
    """What a manifest says of its module."""

    sha256: str
    size_bytes: int


def module_layer(manifest: bytes, origin: str) -> Layer:
    """Find the one layer that is a module: by its media type, or by that of the whole. Raises ModuleInvalid."""
    try:
        told: Any = json.loads(manifest)
        if told.get("mediaType") in INDEXES or "manifests" in told:
            raise ModuleInvalid(f"{origin} is an index of manifests: give the digest of the one that holds the module")
        layers = told["layers"]
        kinds = [str(layer["mediaType"]) for layer in layers]
        found = [layer for layer, kind in zip(layers, kinds, strict=True) if "wasm" in kind]
        whole = f"{told.get('artifactType')} {told.get('config', {}).get('mediaType')}"
        if not found and len(layers) == 1 and "vnd.wasm" in whole:
            found = layers
        if len(found) != 1:
            listed = ", ".join(kinds)[:300] or "none at all"
            raise ModuleInvalid(f"{origin} needs exactly one layer of WebAssembly, and has {len(found)}; its layers are {listed}")
        digest, size = re.fullmatch("sha256:([0-9a-f]{64})", found[0]["digest"]), found[0]["size"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModuleInvalid(f"{origin} is no manifest of an image: {error!r:.200}") from error
    if digest is None or type(size) is not int or size < 0:
        raise ModuleInvalid(f"{origin}: its layer has no sha256 digest and size")
    return Layer(digest[1], size)
