"""The two artifact stores do the same, on a real disk and at a real S3 server."""

import io
import os
from contextlib import closing
from pathlib import Path

import pytest
from admin_server.artifacts.s3 import PART_BYTES, S3Store
from admin_server.artifacts.store import ArtifactStore, digest, holds, keep, verify
from admin_server.artifacts.stores import Stores
from admin_server.errors import ArtifactDamaged, ArtifactGone, ArtifactStoreAway
from admin_server.settings import Settings
from pydantic import ValidationError

from tests.admin_server.kept_models import sha256
from tests.admin_server.s3_server import ACCESS, BUCKET, S3Server

CONTENT = b"weights" * 1000


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Choose a store, and say where it has its files."""
    return tmp_path if request.param == "disk" else s3_of(request).folder / BUCKET / "some" / "prefix"


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if folder == tmp_path:
        return Stores(tmp_path, None, None).newest()
    return Stores(tmp_path, f"s3://{BUCKET}/some/prefix", s3_of(request).url).newest()


def s3_of(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue("s3")
    return server


def test_what_was_put_is_read_from_any_byte(store: ArtifactStore) -> None:
    uri = store.uri_of("models/x.bin")
    store.put(uri, io.BytesIO(CONTENT))
    for begin in (0, 1, len(CONTENT) - 1):
        with closing(store.open(uri, begin)) as file:
            assert file.read(3) + file.read() == CONTENT[begin:]


def test_what_is_not_there_is_gone_and_may_be_removed(store: ArtifactStore) -> None:
    uri = store.uri_of("models/x.bin")
    store.remove(uri)
    with pytest.raises(ArtifactGone):
        store.open(uri)
    store.put(uri, io.BytesIO(CONTENT))
    store.remove(uri)
    assert not holds(store, uri, sha256(CONTENT))


def test_other_bytes_under_the_same_name_take_the_place_of_the_first(store: ArtifactStore) -> None:
    uri = store.uri_of("models/x.bin")
    for content in (b"one", b"two, longer", b""):
        keep(store, uri, io.BytesIO(content), sha256(content))
        with closing(store.open(uri)) as file:
            assert file.read() == content


def test_a_file_that_is_not_the_recorded_one_is_not_kept(store: ArtifactStore) -> None:
    uri = store.uri_of("models/x.bin")
    with pytest.raises(ArtifactDamaged):
        keep(store, uri, io.BytesIO(CONTENT + b"x"), sha256(CONTENT))
    with pytest.raises(ArtifactGone):
        store.open(uri)


def test_a_damaged_copy_is_seen_and_mended_by_keeping_again(store: ArtifactStore, folder: Path) -> None:
    uri = store.uri_of("models/x.bin")
    keep(store, uri, io.BytesIO(CONTENT), sha256(CONTENT))
    file = folder / "models" / "x.bin"
    file.chmod(0o600)
    file.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ArtifactDamaged):
        verify(store, uri, sha256(CONTENT))
    keep(store, uri, io.BytesIO(CONTENT), sha256(CONTENT))
    verify(store, uri, sha256(CONTENT))


class Unread(io.BytesIO):
    """A file that may be read once, to be hashed."""

    passes = 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.passes += 1
        return super().seek(offset, whence)


def test_what_is_there_already_is_not_sent_again(store: ArtifactStore) -> None:
    uri = store.uri_of("models/x.bin")
    keep(store, uri, io.BytesIO(CONTENT), sha256(CONTENT))
    again = Unread(CONTENT)
    keep(store, uri, again, sha256(CONTENT))
    assert again.passes == 0


def test_a_source_whose_name_is_taken_away_is_kept_whole(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "round_0001.safetensors"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        path.unlink()  # what retention does at the worst moment
        keep(store, store.uri_of("models/x.bin"), file, sha256(CONTENT))
    assert holds(store, store.uri_of("models/x.bin"), sha256(CONTENT))


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(s3: S3Server) -> None:
    store = S3Store(f"s3://{BUCKET}", s3.url)
    content = os.urandom(2 * PART_BYTES + 5)
    keep(store, store.uri_of("x.bin"), io.BytesIO(content), sha256(content))
    with closing(store.open(store.uri_of("x.bin"))) as file:
        assert digest(file) == sha256(content)
    assert s3.objects() == ["x.bin"]


def test_an_s3_that_is_away_or_refuses_is_told_by_its_own_word(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for root, word in (("s3://no-such-bucket", "NoSuchBucket"), (f"s3://{BUCKET}", "SignatureDoesNotMatch")):
        store = S3Store(root, s3.url)
        with pytest.raises(ArtifactStoreAway, match=word):
            store.put(store.uri_of("x"), io.BytesIO(CONTENT))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    store = S3Store(f"s3://{BUCKET}", s3.url)
    with pytest.raises(ArtifactStoreAway, match="credentials"):
        store.open(store.uri_of("x"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-another")
    store = S3Store(f"s3://{BUCKET}", s3.url)
    s3.stop()
    with pytest.raises(ArtifactStoreAway) as away:
        store.open(store.uri_of("x"))
    assert "a-secret-of-another" not in f"{away.value} {away.value.facts}"


def test_what_was_kept_on_disk_is_found_after_the_settings_name_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    before, after = Stores(tmp_path, None, None), Stores(tmp_path, f"s3://{BUCKET}", s3.url)
    uri = before.newest().uri_of("models/x.bin")
    keep(before.newest(), uri, io.BytesIO(CONTENT), sha256(CONTENT))
    verify(after.of(uri), uri, sha256(CONTENT))
    there = after.newest().uri_of("models/x.bin")
    keep(after.newest(), there, io.BytesIO(CONTENT), sha256(CONTENT))
    verify(Stores(tmp_path, None, s3.url).of(there), there, sha256(CONTENT))


def test_an_address_that_leaves_the_home_is_refused(tmp_path: Path) -> None:
    store = Stores(tmp_path / "home", None, None).newest()
    for uri in ("../x", "/etc/passwd", "models/../../x"):
        with pytest.raises(ValueError, match="must stay inside"):
            store.open(uri)


def test_what_a_crash_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    store = Stores(tmp_path, None, None).newest()
    keep(store, "models/p/x.bin", io.BytesIO(CONTENT), sha256(CONTENT))
    keep(store, "initial-models/y.bin", io.BytesIO(CONTENT), sha256(CONTENT))
    for folder in ("models/p", "initial-models"):
        (tmp_path / folder / ".part-abc").write_bytes(CONTENT[:5])
    Stores(tmp_path, None, None)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x.bin", "y.bin"}


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where a folder has to be")
    store = Stores(tmp_path, None, None).newest()
    with pytest.raises(ArtifactStoreAway, match="cannot be written"):
        store.put("models/x.bin", io.BytesIO(CONTENT))


@pytest.mark.parametrize(
    "wrong",
    [
        {"artifacts_url": "models/prefix"},
        {"artifacts_url": "s3://B"},
        {"artifacts_url": "s3://bucket/a b"},
        {"artifacts_url": "https://bucket.example.org"},
        {"s3_endpoint_url": "minio:9000"},
        {"s3_endpoint_url": "http://user:secret@minio:9000"},
    ],
)
def test_a_wrong_address_is_refused_at_start_and_not_shown(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**wrong)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("right", ["s3://bucket", "s3://my-bucket.eu/federations/north/", "s3://bucket/a_b.c"])
def test_a_bucket_with_and_without_a_prefix_is_taken(right: str) -> None:
    assert Settings(artifacts_url=right, s3_endpoint_url="http://127.0.0.1:9000").artifacts_url == right
