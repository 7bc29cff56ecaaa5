"""A distribution's file, by pip: with its index, proxy and certificates as they are set up here. Nothing of it is run."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flower_app.sources import Source

SAID_EVERY_S = 10.0
MB = 1e6
WHAT_TO_DO = (
    "pip takes the address of its index from PIP_INDEX_URL, a proxy from HTTPS_PROXY, a CA from PIP_CERT; or copy the folder"
    " {folder} from a machine that has it"
)
# pip asks an sdist's build backend for metadata, which would run its setup.py, and fetch setuptools unpinned to do so. This
# stands in for setuptools and says what is known already.
BACKEND = """\
import os
class Backend:
    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        os.mkdir(os.path.join(folder, "{folder}"))
        with open(os.path.join(folder, "{folder}", "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return "{folder}"
__legacy__ = Backend()
"""


class DownloadFailed(RuntimeError):
    """pip did not bring a distribution's file."""


def download(source: Source, scratch: Path) -> Path:
    """Have pip put the file into an empty folder and give its path; says every ten seconds how much is there.

    pip checks the sha256. Raises DownloadFailed.
    """
    for folder in ("tmp", "came", "backend/setuptools"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "requirements.txt").write_text(source.requirement + "\n")
    (scratch / "backend/setuptools/__init__.py").touch()
    told = {"name": source.name, "version": source.version}
    told["folder"] = f"{source.name.replace('-', '_')}-{source.version}.dist-info"
    (scratch / "backend/setuptools/build_meta.py").write_text(BACKEND.format(**told))
    kind = ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"] if source.is_sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *kind, "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", "came", "--requirement", "requirements.txt"]
    environment = {**os.environ, "TMPDIR": str(scratch / "tmp")}
    if source.is_sdist:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(scratch / "backend"), os.environ.get("PYTHONPATH")]))
    with (scratch / "pip.log").open("w") as log:
        code = _run(command, environment, scratch, source, log.fileno())
    found = list((scratch / "came").iterdir())
    if code or len(found) != 1:
        reason = _last_error((scratch / "pip.log").read_text(errors="replace")) or f"it ended with exit code {code}"
        advice = WHAT_TO_DO.format(folder=source.folder)
        raise DownloadFailed(f"pip could not fetch {source.name} {source.version}: {reason}. What to do: {advice}")
    return found[0]


def _run(command: list[str], environment: dict[str, str], scratch: Path, source: Source, log: int) -> int:
    started = time.monotonic()
    with subprocess.Popen(command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as pip:
        try:
            while True:
                try:
                    return pip.wait(SAID_EVERY_S)
                except subprocess.TimeoutExpired:
                    here = _bytes_in(scratch / "tmp")
                    after = f"after {time.monotonic() - started:.0f} s"
                    print(f"  {here / MB:.0f} of {source.num_bytes / MB:.0f} MB {after}", flush=True)
        except BaseException:
            pip.kill()
            raise


def _bytes_in(folder: Path) -> int:
    """Count what lies in the folders of a folder; what pip has deleted meanwhile does not count."""
    found = 0
    for path, _, names in os.walk(folder):
        for name in names if Path(path).parent == folder else ():
            with suppress(FileNotFoundError):
                found += Path(path, name).stat().st_size
    return found


def _last_error(said: str) -> str:
    """Give the last line that names an error, and why a connection broke where one did; else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    broken = [line.partition("connection broken by ")[2] for line in lines if "connection broken by " in line]
    return " ".join([*errors[-1:], *(f"({reason})" for reason in broken[-1:])])
