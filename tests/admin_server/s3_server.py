"""nanio, an independent S3 server, as a process of its own: signatures are checked, buckets are folders, objects are files."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

BUCKET, ACCESS, SECRET = "models", "federation", "a-secret-of-the-tests"


class S3Server:
    """One server on one port, which may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nanio", "serve", "--data-dir", self.folder, "--host", "127.0.0.1", "--port", str(self.port)],
            env={"PATH": os.environ["PATH"], "NANIO_ACCESS_KEY": ACCESS, "NANIO_SECRET_KEY": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("nanio does not start")

    def stop(self) -> None:
        """Kill it; what it has answered is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def empty(self) -> None:
        """Delete every object."""
        for path in (self.folder / BUCKET).iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def file(self, key: str) -> Path:
        """Give the file in which it keeps an object."""
        return self.folder / BUCKET / key

    def objects(self) -> list[str]:
        """List what is in the bucket."""
        found = (path.relative_to(self.folder / BUCKET) for path in (self.folder / BUCKET).rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def credentials(environment: pytest.MonkeyPatch, nowhere: Path) -> None:
    """Let boto3 find this server's credentials and nobody else's."""
    for name, value in (("ACCESS_KEY_ID", ACCESS), ("SECRET_ACCESS_KEY", SECRET), ("EC2_METADATA_DISABLED", "true")):
        environment.setenv(f"AWS_{name}", value)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        environment.setenv(f"AWS_{name}", str(nowhere / "no such file"))


class Damaging:
    """A wire between a client and an S3 server on which some bytes change."""

    def __init__(self, server: S3Server, told: bytes, heard: bytes) -> None:
        assert len(told) == len(heard)
        self._server, self._told, self._heard = server, told, heard
        self._carriers: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            await asyncio.gather(self._one_way(reader, back, damaging=True), self._one_way(there, writer, damaging=False))
        finally:
            for end in (back, writer):
                end.close()
                await end.wait_closed()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, damaging: bool) -> None:
        while piece := await reader.read(65536):
            writer.write(piece.replace(self._told, self._heard) if damaging else piece)
            await writer.drain()
