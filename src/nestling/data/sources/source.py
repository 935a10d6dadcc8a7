"""What a source is: files with their sums, and the terms of their data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One file of a data source, with size and checksum.

    Attributes:
        name: of the file.
        num_bytes: its size.
        sha256: of its bytes.
        command: that fetches it into the current folder; empty if only copies exist.
    """

    name: str
    num_bytes: int
    sha256: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Source of a data set: its files with checksums, its licence, and how to fetch it.

    Attributes:
        name: for `fetch_source` and `nestling data fetch`.
        about: rows, shape and classes.
        licence: of the data, as its source states it.
        files: all are needed; none for what is installed already.
    """

    name: str
    about: str
    licence: str
    files: tuple[SourceFile, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def sha256(self) -> tuple[str, ...]:
        """Sums of the files, in their order."""
        return tuple(file.sha256 for file in self.files)

    @property
    def command(self) -> tuple[str, ...]:
        """What fetches each file into the current folder, as typed in a shell."""
        return tuple(" ".join(file.command) for file in self.files if file.command)
