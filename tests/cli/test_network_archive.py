"""Archives that are right, and archives that want to do harm."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from peak import grows_at_most

from dlenv.errors import ArchiveRefused, DataError
from dlenv.network.archive import Limits, names, unpack

Pack = Callable[[Path, dict[str, bytes]], None]


def pack_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor mends some names
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def pack_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(params=[pack_zip, pack_tar], ids=["zip", "tar"])
def pack(request: pytest.FixtureRequest) -> Pack:
    return request.param


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "archive"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out" / "folder"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing(folder: Path) -> bool:
    """Neither the folder nor anything beside it."""
    return not folder.parent.exists() or not any(folder.parent.iterdir())


def test_a_folder_is_unpacked(pack: Pack, archive: Path, folder: Path) -> None:
    content = {"a.txt": b"a" * 3_000_000, "deep/er/b.txt": b"b", "deep/c.txt": b"", "名字.txt": b"n"}
    pack(archive, content)
    assert names(archive) == list(content)
    assert unpack(archive, folder) == list(content)
    assert files(folder) == content
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert stat.S_IMODE(folder.stat().st_mode) & 0o700 == 0o700


def test_only_wanted_members_under_their_new_names(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {"top/keep/a": b"1", "top/drop/b": b"2", "top/NUL": b"3"})
    folder.mkdir(parents=True)  # empty: may be there
    written = unpack(archive, folder, members=lambda name: name[9:] if name.startswith("top/keep/") else None)
    assert written == ["a"]
    assert files(folder) == {"a": b"1"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/evil", "absolute"),
        ("C:/evil", "absolute"),
        ("c:evil", "absolute"),
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("a\\..\\..\\evil", "backslash"),
        ("a/b:stream", "Windows"),
        ("a/CON", "Windows"),
        ("nul.txt", "Windows"),
        ("a/com1.tar.gz", "Windows"),
        ("a/b. ", "Windows"),
        ("a /b", "Windows"),
        ("a\x1bb", "Windows"),
        ("what?", "Windows"),
    ],
)
def test_a_name_that_escapes_or_can_not_be(pack: Pack, archive: Path, folder: Path, name: str, reason: str) -> None:
    pack(archive, {"good": b"1", name: b"2"})
    with pytest.raises(ArchiveRefused, match=reason) as caught:
        unpack(archive, folder)
    assert repr(name) in str(caught.value)
    assert nothing(folder)
    assert not [path for path in folder.parents[1].rglob("*") if "evil" in path.name]


def test_an_escape_is_refused_even_where_it_is_not_wanted(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {"good": b"1", "../evil": b"2"})
    with pytest.raises(ArchiveRefused, match="leads out"):
        unpack(archive, folder, members=lambda name: name if name == "good" else None)


def test_a_zero_byte_in_a_name(archive: Path, folder: Path) -> None:
    pack_zip(archive, {"goodXevil": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"goodXevil", b"good\0evil"))
    with pytest.raises(ArchiveRefused, match="zero byte"):
        unpack(archive, folder)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/B", "A/b"), ("a/x", "A/y"), ("x", "X"), ("a", "a/b"), ("a/b", "A"), ("é", "e\u0301"), ("ß", "SS")],
)
def test_names_that_are_one_where_case_does_not_count(
    pack: Pack, archive: Path, folder: Path, first: str, second: str
) -> None:
    pack(archive, {first: b"1", second: b"2"})
    with pytest.raises(ArchiveRefused, match="same name"):
        unpack(archive, folder)
    assert nothing(folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "no plain file"),
        (tarfile.BLKTYPE, "no plain file"),
        (tarfile.FIFOTYPE, "no plain file"),
    ],
)
def test_a_tar_member_that_is_no_file(archive: Path, folder: Path, kind: bytes, reason: str) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("odd")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ArchiveRefused, match=f"'odd'.*{reason}"):
        unpack(archive, folder)
    assert nothing(folder)


@pytest.mark.parametrize(("mode", "reason"), [(stat.S_IFLNK, "link"), (stat.S_IFCHR, "no plain file")])
def test_a_zip_member_that_is_no_file(archive: Path, folder: Path, mode: int, reason: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        info = zipfile.ZipInfo("odd")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveRefused, match=f"'odd'.*{reason}"):
        unpack(archive, folder)
    assert nothing(folder)


def test_an_encrypted_member(archive: Path, folder: Path) -> None:
    pack_zip(archive, {"secret": b"1"})
    content = bytearray(archive.read_bytes())
    for at in (6, content.index(b"PK\1\2") + 8):  # flags in the local and the central header
        content[at] |= 1
    archive.write_bytes(content)
    with pytest.raises(ArchiveRefused, match="encrypted"):
        unpack(archive, folder)


def test_a_bomb_by_ratio(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {"zeros": bytes(30_000_000)})
    with pytest.raises(ArchiveRefused, match="200 times its size"):
        unpack(archive, folder)
    assert nothing(folder)


def test_a_bomb_by_total_size(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {str(number): bytes(1000) for number in range(12)})
    with pytest.raises(ArchiveRefused, match="more than 10,000 bytes"):
        unpack(archive, folder, limits=Limits(total=10_000))
    assert nothing(folder)


def test_a_bomb_by_count(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {str(number): b"" for number in range(12)})
    with pytest.raises(ArchiveRefused, match="more than 10 members"):
        unpack(archive, folder, limits=Limits(entries=10))
    assert nothing(folder)


def test_a_zip_that_lies_about_its_sizes(archive: Path, folder: Path) -> None:
    pack_zip(archive, {"zeros": bytes(1_000_000)})
    content = archive.read_bytes()
    central = content.index(b"PK\1\2") + 24
    lie = struct.pack("<I", 10)
    archive.write_bytes(content[:22] + lie + content[26:central] + lie + content[central + 4 :])
    with pytest.raises(ArchiveRefused):
        unpack(archive, folder)
    assert nothing(folder)


def test_a_bomb_in_what_is_left_out_of_a_tar(archive: Path, folder: Path) -> None:
    """A tar is read from front to back: what is not wanted is unpacked too."""
    pack_tar(archive, {"zeros": bytes(30_000_000), "good": b"1"})
    with pytest.raises(ArchiveRefused, match="200 times its size"):
        unpack(archive, folder, members=lambda name: name if name == "good" else None)


def test_damage(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {"a": bytes(range(256)) * 1000, "b": b"2"})
    whole = archive.read_bytes()
    for damaged in (
        b"",
        b"no archive at all",
        whole[: len(whole) // 2],
        whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
        gzip.compress(b"no tar"),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(ArchiveRefused, match="damaged"):
            unpack(archive, folder)
        assert nothing(folder)


def test_what_is_there_stays(pack: Pack, archive: Path, folder: Path) -> None:
    pack(archive, {"a": b"1"})
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        unpack(archive, folder)
    assert files(folder) == {"mine": b"mine"}
    with pytest.raises(DataError, match=r"archive can't be read|can't be unpacked"):
        unpack(archive.with_name("missing"), folder.with_name("other"))
    with pytest.raises(DataError, match="can't be read"):
        names(archive.with_name("missing"))
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack(archive, folder / "mine" / "below")


def many_members(count: int) -> bytes:
    """A zip file that is a list of members and nothing else, which takes ten times its size in memory."""
    listed = b"".join(
        struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 8, len(name), *[0] * 6) + name
        for name in (b"%x" % number for number in range(count))
    )
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(listed), 0)
    where = struct.pack("<4sLQL", b"PK\6\7", 0, len(listed), 1)
    return listed + end + where + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)


def test_a_list_of_members_is_not_read_whatever_its_length(archive: Path, folder: Path) -> None:
    archive.write_bytes(many_members(400_000))
    with grows_at_most(60), pytest.raises(ArchiveRefused, match="list of members is too long"):
        unpack(archive, folder)
    assert nothing(folder)
    archive.write_bytes(many_members(60_000))
    with pytest.raises(ArchiveRefused, match="more than 50,000 members"):
        names(archive)


@pytest.mark.parametrize("size", [1 << 40, (1 << 20) + 1, -512])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_names_and_attributes_of_a_tar_file_are_not_read_whatever_their_length(
    archive: Path, folder: Path, kind: bytes, size: int
) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    archive.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(3 << 20)))
    with grows_at_most(30), pytest.raises(ArchiveRefused, match="of impossible size"):
        unpack(archive, folder)
    assert nothing(folder)
