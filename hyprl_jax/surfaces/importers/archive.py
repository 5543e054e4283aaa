"""The files of a source, from a folder or straight out of a tar archive.

Nothing of an archive is ever unpacked onto the disk: members are read into memory under limits on their
number and size, and links, devices and odd paths in it are refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hyprl_jax.errors import InputError

MAX_FILES = 20_000
MAX_FILE_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 2 * 2**30

__all__ = ["source_files"]


def source_files(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a folder or in a `.tar`, `.tar.gz`, `.tar.xz`, ..., sorted by name.

    Names are without folders. Hidden files are left out.

    Raises:
        InputError: nothing is there, no file in it, a file too large, or an archive that is damaged or not
        safe.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        contents = _folder_files(path)
    elif path.is_file():
        contents = _archive_files(path)
    else:
        raise InputError(f"{path}: there is no such file or folder")
    if not contents:
        raise InputError(f"{path}: no file in it")
    yield from sorted(contents.items())


def _folder_files(path: Path) -> dict[str, bytes]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    _check_sizes(path, len(files), [file.stat().st_size for file in files])
    contents: dict[str, bytes] = {}
    for file in files:
        if file.name in contents:
            raise InputError(f"{path}: two files are called '{file.name}'")
        contents[file.name] = file.read_bytes()
    return contents


def _archive_files(path: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for count, member in enumerate(archive):
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise InputError(
                        f"{path}: the archive holds '{member.name[:100]}', which is not a plain file"
                    )
                total += member.size
                _check_sizes(path, count, [member.size, total - member.size])
                if member.isdir() or name.name.startswith("."):
                    continue
                if name.name in contents:
                    raise InputError(f"{path}: two files are called '{name.name}'")
                stream = archive.extractfile(member)
                assert stream is not None, "regular files have content"
                contents[name.name] = stream.read(MAX_FILE_BYTES + 1)
    except InputError:
        raise
    except Exception as error:  # tarfile and the decompressors raise many kinds on damaged input
        raise InputError(
            f"{path}: not a readable tar archive ({' '.join(str(error).split())[:200]})"
        ) from None
    return contents


def _check_sizes(path: Path, count: int, sizes: list[int]) -> None:
    if count > MAX_FILES or sum(sizes) > MAX_TOTAL_BYTES or max(sizes, default=0) > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: more than {MAX_FILES} files, {MAX_FILE_BYTES} bytes in one or {MAX_TOTAL_BYTES} in all"
        )
