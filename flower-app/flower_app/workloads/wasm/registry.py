"""A module from an OCI registry: the manifest by its digest, and the blob that it names, both checked by their sha256.

No credentials are sent but the anonymous token that a public registry hands out, and that to the registry alone.
Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md, and for the token
https://distribution.github.io/distribution/spec/auth/token/.
"""

import hashlib
import ipaddress
import json
import re
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import httpx

from flower_app.config import ConfigError
from flower_app.workloads.patience import Busy, TriedInVain, asked_s, is_busy, patiently
from flower_app.workloads.wasm.faults import ModuleChanged, ModuleMissing, ModuleTooLarge
from flower_app.workloads.wasm.manifest import INDEXES, MANIFESTS, MOST_MANIFEST_BYTES, Layer

MOST_REDIRECTS = 5
TRIES, LONGEST_WAIT_S = 4, 30.0
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """One repository of a registry, by https; on loopback by http."""

    def __init__(
        self,
        host: str,
        repository: str,
        *,
        silent_s: float = 30.0,
        total_s: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet. Raises ConfigError.

        host: with :port where it is not 443. silent_s, total_s: for one connection or read, and for all that is asked of it.
        """
        self._name = f"oci://{host}/{repository}"
        self._repository = repository
        try:
            url = httpx.URL(f"https://{host}")
            self._origin = url.copy_with(scheme="http") if _is_loopback(url.host) else url
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigError(f"wasm-module: {host} is no host: {error}") from error
        if url.port is not None and not 0 < url.port < 65536:
            raise ConfigError(f"wasm-module: {host} is no host: a port lies in 1..65535")
        self._token: str | None = None
        self._total_s, self._until = total_s, time.monotonic() + total_s
        self._sleep = sleep
        # The environment says which CAs are trusted (SSL_CERT_FILE); proxies, which may hold passwords, are not for apps.
        self._client = httpx.Client(verify=httpx.create_ssl_context(), trust_env=False, timeout=silent_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def manifest(self, sha256: str) -> bytes:
        """Fetch the manifest of this digest. Raises ModuleMissing, ModuleChanged, ModuleTooLarge."""
        content = self._fetch(f"manifests/sha256:{sha256}", MOST_MANIFEST_BYTES, ", ".join(MANIFESTS + INDEXES))
        return self._checked(content, sha256, "the manifest")

    def blob(self, layer: Layer) -> bytes:
        """Fetch the layer's blob. Raises ModuleMissing, ModuleChanged, ModuleTooLarge."""
        content = self._fetch(f"blobs/sha256:{layer.sha256}", layer.size_bytes, "*/*")
        return self._checked(content, layer.sha256, "the blob")

    def _checked(self, content: bytes, sha256: str, what: str) -> bytes:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise ModuleChanged(f"{what} that {self._name} gave for sha256:{sha256} has sha256 {found}")
        return content

    def _fetch(self, path: str, most_bytes: int, accept: str) -> bytes:
        """Fetch; again while the registry is busy (429, 5xx) or out of reach."""
        ask = partial(self._authorised, self._origin.copy_with(path=f"/v2/{self._repository}/{path}"), most_bytes, accept)
        try:
            return patiently(ask, self._name, tries=TRIES, longest_wait_s=LONGEST_WAIT_S, until=self._until, sleep=self._sleep)
        except TriedInVain as vain:
            raise ModuleMissing(f"{self._name} cannot be fetched {vain}") from vain

    def _authorised(self, url: httpx.URL, most_bytes: int, accept: str) -> bytes:
        try:
            return self._get(url, most_bytes, accept)
        except _Unauthorised as asked:
            if self._token is not None:
                raise ModuleMissing(f"{self._name} is not for everybody: {asked}") from asked
            self._token = self._anonymous_token(asked.challenge)
            return self._authorised(url, most_bytes, accept)

    def _anonymous_token(self, challenge: str) -> str:
        kind, _, rest = challenge.partition(" ")
        told = dict(_PARAMETER.findall(rest))
        if kind.lower() != "bearer" or "realm" not in told:
            raise ModuleMissing(f"{self._name} wants a login ({kind[:40] or 'of no kind'}), and modules are fetched without one")
        realm = self._trusted(told["realm"], "its token server")
        wanted = {"service": told.get("service", ""), "scope": told.get("scope", f"repository:{self._repository}:pull")}
        url = realm.copy_merge_params({name: value for name, value in wanted.items() if value})
        try:
            answer = json.loads(self._get(url, MOST_MANIFEST_BYTES, "application/json"))
            token = answer.get("token") or answer["access_token"]
        except _Unauthorised as asked:
            raise ModuleMissing(f"{self._name} is not for everybody: its token server says {asked}") from asked
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise ModuleMissing(f"the token server of {self._name} gave no token") from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ModuleMissing(f"the token server of {self._name} gave a token that cannot be sent")
        return token

    def _get(self, url: httpx.URL, most_bytes: int, accept: str) -> bytes:
        """Read an answer to its end, wherever it is. Raises Busy, _Unauthorised, ModuleMissing, ModuleTooLarge."""
        for _ in range(MOST_REDIRECTS + 1):
            self._see_that_there_is_time(0)
            headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "espalier"}
            if self._token is not None and _is_same(url, self._origin):
                headers["Authorization"] = f"Bearer {self._token}"
            try:
                with self._client.stream("GET", url, headers=headers) as answer:
                    if not answer.has_redirect_location:
                        return self._content(answer, most_bytes)
                    url = self._trusted(answer.headers["Location"], "a redirect", url)
            except (httpx.HTTPError, UnicodeError) as error:  # the latter of a host that can have no name
                raise Busy(f"{type(error).__name__}: {str(error) or 'no reason given'}") from error
        raise ModuleMissing(f"{self._name} redirects more than {MOST_REDIRECTS} times")

    def _content(self, answer: httpx.Response, most_bytes: int) -> bytes:
        if answer.status_code == 200:
            return self._read(answer, most_bytes)
        told = _told(answer.status_code, next(answer.iter_raw(), b""))
        if answer.status_code == 401:
            raise _Unauthorised(told, answer.headers.get("WWW-Authenticate", ""))
        if is_busy(answer.status_code):
            raise Busy(told, asked_s(answer.headers))
        raise ModuleMissing(f"{self._name} cannot be fetched: {told}")

    def _read(self, answer: httpx.Response, most_bytes: int) -> bytes:
        read = bytearray()
        for part in answer.iter_raw():
            read += part
            if len(read) > most_bytes:
                raise ModuleTooLarge(f"{self._name} gave more than the {most_bytes} bytes that were to come")
            self._see_that_there_is_time(len(read))
        return bytes(read)

    def _see_that_there_is_time(self, num_bytes: int) -> None:
        if time.monotonic() > self._until:
            raise ModuleMissing(f"{self._name} is too slow: it had {self._total_s:g} s, and {num_bytes} bytes have come")

    def _trusted(self, address: str, what: str, base: httpx.URL | None = None) -> httpx.URL:
        """Read an address that the registry gave. Raises ModuleMissing where it is not https; on loopback http stays there."""
        try:
            url = (base or self._origin).join(address)
            host = url.host
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ModuleMissing(f"{self._name}: {what} leads to no address: {error}") from error
        if url.scheme != "https" and not (self._origin.scheme == url.scheme == "http" and _is_loopback(host)):
            raise ModuleMissing(f"{self._name}: {what} leads to {url.scheme}://{host}, which is not https")
        return url


class _Unauthorised(Exception):
    """The registry wants to know who asks."""

    def __init__(self, told: str, challenge: str) -> None:
        super().__init__(told)
        self.challenge = challenge


def _told(status: int, body: bytes) -> str:
    """Say what a registry says of an error, by the form that the specification gives it."""
    try:
        first = json.loads(body)["errors"][0]
        words = f"{first.get('code', '')} {first.get('message', '')}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        words = ""
    return " ".join(f"HTTP {status} {words}".split())[:200]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_same(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
