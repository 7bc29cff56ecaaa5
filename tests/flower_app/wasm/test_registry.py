"""A module comes from a registry whole and as pinned, or with a sentence that says why not; nobody else gets the token."""

import hashlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from flower_app.config import ConfigError
from flower_app.workloads.wasm import modules
from flower_app.workloads.wasm.faults import (
    ModuleChanged,
    ModuleInvalid,
    ModuleMissing,
    ModuleNotAllowed,
    ModuleTooLarge,
    TaskFault,
)
from flower_app.workloads.wasm.manifest import Layer
from flower_app.workloads.wasm.modules import find_module
from flower_app.workloads.wasm.registry import Registry
from flower_app.workloads.wasm.task import Limits

from tests.flower_app.wasm.registry_stand import REPOSITORY, Answer, Stand, open_stand
from tests.flower_runtime.certificates import make_certificates

WASM = b"\0asm\1\0\0\0 of a registry"
HEX = hashlib.sha256(WASM).hexdigest()


@pytest.fixture
def stand() -> Iterator[Stand]:
    with open_stand() as opened:
        yield opened


def find(stand: Stand, digest: str, allowed: str = HEX, cache: Path | None = None, most_bytes: int = 1000) -> modules.Found:
    reference = f"oci://{stand.host}/{REPOSITORY}@{digest}"
    return find_module(reference, frozenset({allowed}), cache, Limits(module_bytes=most_bytes))


def test_a_module_is_fetched_by_the_digest_of_its_manifest(stand: Stand) -> None:
    digest = stand.push(WASM)
    assert find(stand, digest) == modules.Found(WASM, HEX, f"oci://{stand.host}/lab/mlp@{digest}")
    accepted = stand.asked[0][1]["accept"]
    assert "application/vnd.oci.image.manifest.v1+json" in accepted
    assert not any("authorization" in headers or "cookie" in headers for _, headers in stand.asked)


def test_a_kept_module_needs_no_registry_and_is_looked_at_again(stand: Stand, tmp_path: Path) -> None:
    digest = stand.push(WASM)
    find(stand, digest, cache=tmp_path)
    stand.there.clear()
    stand.asked.clear()
    assert find(stand, digest, cache=tmp_path).wasm == WASM
    assert stand.asked == []
    (tmp_path / f"wasm/modules/{HEX}.wasm").write_bytes(b"changed")
    with pytest.raises(ModuleMissing, match="HTTP 404"):
        find(stand, digest, cache=tmp_path)


def test_a_module_that_is_kept_still_needs_the_sites_word(stand: Stand, tmp_path: Path) -> None:
    digest = stand.push(WASM)
    find(stand, digest, cache=tmp_path)
    with pytest.raises(ModuleNotAllowed):
        find(stand, digest, "0" * 64, cache=tmp_path)


def test_a_module_that_is_not_allowed_is_not_fetched(stand: Stand) -> None:
    digest = stand.push(WASM)
    with pytest.raises(
        ModuleNotAllowed, match=f"does not allow module sha256:{HEX} \\(oci://127.*needs sha256:{HEX} in its WASM_"
    ):
        find(stand, digest, "0" * 64)
    assert [path.split("/")[-2] for path, _ in stand.asked] == ["manifests"]


def test_what_was_changed_on_the_way_is_refused(stand: Stand) -> None:
    digest = stand.push(WASM)
    blob = f"/v2/{REPOSITORY}/blobs/sha256:{HEX}"
    for tampered in (WASM[:-1] + b"!", WASM[:-1]):
        stand.there[blob] = Answer(body=tampered)
        with pytest.raises(ModuleChanged, match=f"the blob that oci://.* gave for sha256:{HEX} has sha256 "):
            find(stand, digest)
    stand.there[f"/v2/{REPOSITORY}/manifests/{digest}"].body += b" "
    with pytest.raises(ModuleChanged, match=f"the manifest that oci://.* gave for {digest} has sha256 "):
        find(stand, digest)


def test_the_anonymous_token_of_a_public_registry_is_fetched_once_and_sent(stand: Stand) -> None:
    digest = stand.push(WASM)
    challenge = f'Bearer realm="http://{stand.host}/token?a=b",service="registry.example",scope="repository:lab/mlp:pull"'

    def respond(path: str, headers: dict[str, str]) -> Answer | None:
        if path.startswith("/token"):
            return Answer(body=b'{"token": "anonymous-1"}')
        if headers.get("authorization") != "Bearer anonymous-1":
            return Answer(401, headers={"WWW-Authenticate": challenge})
        return None

    stand.respond = respond
    assert find(stand, digest).wasm == WASM
    asked = [path for path, _ in stand.asked if path.startswith("/token")]
    assert [parse_qs(urlsplit(path).query) for path in asked] == [
        {"a": ["b"], "service": ["registry.example"], "scope": ["repository:lab/mlp:pull"]}
    ]


@pytest.mark.parametrize(
    ("challenge", "token", "sentence"),
    [
        ('Basic realm="here"', b"", r"wants a login \(Basic\), and modules are fetched without one"),
        ("", b"", r"wants a login \(of no kind\)"),
        ('Bearer realm="http://auth.example/token"', b"", "its token server leads to http://auth.example, which is not https"),
        ('Bearer realm="file:///etc/passwd"', b"", "its token server leads to file://, which is not https"),
        ('Bearer realm="https://auth.example:x/token"', b"", "its token server leads to no address"),
        ('Bearer realm="HERE/token"', b"[]", "gave no token"),
        ('Bearer realm="HERE/token"', b'{"token": "a\\nb"}', "gave a token that cannot be sent"),
        ('Bearer realm="HERE/token"', b'{"access_token": "useless"}', "is not for everybody: HTTP 401 DENIED no"),
    ],
)
def test_a_registry_that_wants_more_than_an_anonymous_token_is_told(
    stand: Stand, challenge: str, token: bytes, sentence: str
) -> None:
    refused = json.dumps({"errors": [{"code": "DENIED", "message": "no"}]}).encode()
    headers = {"WWW-Authenticate": challenge.replace("HERE", f"http://{stand.host}")}
    stand.respond = lambda path, _: Answer(body=token) if path.startswith("/token") else Answer(401, refused, headers)
    with pytest.raises(ModuleMissing, match=sentence):
        find(stand, "sha256:" + "0" * 64)


def test_a_redirect_is_followed_and_the_token_stays_behind(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = stand.push(WASM)
    ca, key, certificate = make_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with open_stand(context) as storage:

        def respond(path: str, headers: dict[str, str]) -> Answer | None:
            if path.startswith("/token?"):
                return Answer(body=b'{"token": "anonymous-1"}')
            if "authorization" not in headers:
                return Answer(401, headers={"WWW-Authenticate": 'Bearer realm="/token"'})
            location = {"Location": f"https://127.0.0.1:{storage.port}/signed?signature=s"}
            return Answer(307, headers=location) if "/blobs/" in path else None

        stand.respond = respond
        storage.respond = lambda path, _: Answer(body=WASM) if path.startswith("/signed?") else None
        assert find(stand, digest).wasm == WASM
        ((_, headers),) = storage.asked
        assert "authorization" not in headers


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("http://storage.example/blob", "a redirect leads to http://storage.example, which is not https"),
        ("ftp://127.0.0.1/blob", "a redirect leads to ftp://127.0.0.1, which is not https"),
        ("/again", "redirects more than 5 times"),
    ],
)
def test_a_redirect_to_anywhere_else_is_not_followed(stand: Stand, location: str, sentence: str) -> None:
    stand.respond = lambda path, _: Answer(302, headers={"Location": location})
    with pytest.raises(ModuleMissing, match=sentence):
        find(stand, "sha256:" + "0" * 64)
    assert len(stand.asked) == (6 if location == "/again" else 1)


def test_more_than_a_site_takes_is_not_fetched(stand: Stand) -> None:
    digest = stand.push(WASM)
    with pytest.raises(ModuleTooLarge, match=f"has more than {len(WASM) - 1} bytes"):
        find(stand, digest, most_bytes=len(WASM) - 1)
    assert len(stand.asked) == 1


def test_more_than_the_manifest_says_is_not_read(stand: Stand) -> None:
    digest = stand.push(WASM)
    stand.there[f"/v2/{REPOSITORY}/blobs/sha256:{HEX}"] = Answer(headers={"Content-Length": str(10**12)}, trickles=True)
    with pytest.raises(ModuleTooLarge, match=f"gave more than the {len(WASM)} bytes that were to come"):
        find(stand, digest)


def test_a_slow_registry_is_waited_for_only_so_long(stand: Stand) -> None:
    waits: list[float] = []
    stand.respond = lambda path, _: Answer(headers={"Content-Length": str(10**9)}, trickles=True)
    with (
        Registry(stand.host, REPOSITORY, total_s=0.2, sleep=waits.append) as slow,
        pytest.raises(ModuleMissing, match=r"is too slow: it had 0\.2 s"),
    ):
        slow.blob(Layer(HEX, 10**9))
    assert waits == []


def test_a_silent_registry_is_given_up() -> None:
    waits: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        with (
            Registry(host, REPOSITORY, silent_s=0.05, sleep=waits.append) as silent,
            pytest.raises(ModuleMissing, match="ReadTimeout"),
        ):
            silent.manifest("0" * 64)
    assert waits == [1.0, 2.0, 4.0]


def test_a_busy_registry_is_asked_again(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[float] = []
    digest = stand.push(WASM)
    busy = [Answer(429, headers={"Retry-After": "7"}), Answer(503), Answer(429, headers={"Retry-After": "86400"})]
    stand.respond = lambda path, _: busy.pop(0) if busy else None
    with Registry(stand.host, REPOSITORY, sleep=waits.append) as registry:
        assert registry.manifest(digest.removeprefix("sha256:"))
    assert waits == [7.0, 2.0, 30.0]
    assert f"oci://{stand.host}/lab/mlp: HTTP 429; trying again in 7 s\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "total_s", "tries", "waited"), [("", 300.0, "4 tries", [1.0, 2.0, 4.0]), ("30", 20.0, "1 try", [])]
)
def test_a_registry_that_stays_busy_is_given_up(
    stand: Stand, asked: str, total_s: float, tries: str, waited: list[float]
) -> None:
    waits: list[float] = []
    stand.respond = lambda path, _: Answer(500, b"<html>", {"Retry-After": asked})
    with (
        Registry(stand.host, REPOSITORY, total_s=total_s, sleep=waits.append) as busy,
        pytest.raises(ModuleMissing, match=f"cannot be fetched after {tries}: HTTP 500$"),
    ):
        busy.manifest("0" * 64)
    assert waits == waited


def test_a_registry_out_of_reach_is_told() -> None:
    waits: list[float] = []
    with open_stand() as gone:
        pass
    with (
        Registry(gone.host, REPOSITORY, sleep=waits.append) as away,
        pytest.raises(ModuleMissing, match=r"cannot be fetched after 4 tries: ConnectError: .*[Rr]efused"),
    ):
        away.manifest("0" * 64)


def test_what_a_registry_says_of_an_error_is_told(stand: Stand) -> None:
    with pytest.raises(ModuleMissing, match=r"cannot be fetched: HTTP 404 MANIFEST_UNKNOWN there is no such thing$"):
        find(stand, "sha256:" + "0" * 64)


@pytest.mark.parametrize("host", ["a.example:99999", "a.example:0", "xn--a", "[::zz]"])
def test_a_host_that_is_none_is_no_reference(host: str) -> None:
    with pytest.raises(ConfigError, match=f"wasm-module: {re.escape(host)} is no host: "):
        Registry(host, REPOSITORY)


def test_a_registry_beyond_loopback_is_asked_by_https_alone(stand: Stand) -> None:
    """0.0.0.0 is no loopback address, and leads there all the same."""
    waits: list[float] = []
    with (
        Registry(f"0.0.0.0:{stand.port}", REPOSITORY, sleep=waits.append) as beyond,
        pytest.raises(ModuleMissing, match=r"ConnectError: .*SSL"),
    ):
        beyond.manifest("0" * 64)
    assert stand.asked == []


LAYER = {"mediaType": "application/wasm", "digest": f"sha256:{HEX}", "size": len(WASM)}
OTHER = {**LAYER, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
PLAIN = {"config": {"mediaType": "application/vnd.oci.empty.v1+json"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [OTHER, LAYER]},
        {"layers": [{**LAYER, "mediaType": "application/vnd.wasm.content.layer.v1+wasm"}], **PLAIN},
        {"layers": [OTHER]},
        {"layers": [OTHER], **PLAIN, "artifactType": "application/vnd.wasm.config.v1+json"},
        {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
    ],
)
def test_the_layer_of_a_module_is_known_by_its_type_or_that_of_the_whole(stand: Stand, changes: dict[str, object]) -> None:
    assert find(stand, stand.push(WASM, **changes)).wasm == WASM


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": [LAYER, LAYER]}, "needs exactly one layer of WebAssembly, and has 2; its layers are application/wasm, app"),
        ({"layers": []}, "and has 0; its layers are none at all"),
        ({"layers": [OTHER], **PLAIN}, r"and has 0; its layers are application/vnd\.oci\.image\.layer"),
        ({"layers": [OTHER, OTHER]}, "and has 0"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "is an index of manifests: give the digest of the one that"),
        ({"manifests": []}, "is an index of manifests"),
        ({"layers": None}, "is no manifest of an image"),
        ({"layers": [{**LAYER, "digest": f"sha512:{HEX}"}]}, "its layer has no sha256 digest and size"),
        ({"layers": [{**LAYER, "size": True}]}, "its layer has no sha256 digest and size"),
        ({"layers": [{**LAYER, "size": -1}]}, "its layer has no sha256 digest and size"),
    ],
)
def test_what_is_no_manifest_of_one_module_is_told(stand: Stand, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ModuleInvalid, match=sentence):
        find(stand, stand.push(WASM, **changes))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff"])
def test_no_manifest_breaks_the_reader(stand: Stand, content: bytes) -> None:
    with pytest.raises(TaskFault, match="is no manifest of an image"):
        find(stand, stand.push_manifest(content))
