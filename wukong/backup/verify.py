"""Reading every byte of a chain of backups."""

from collections.abc import Callable

from wukong.backup.manifest import Backup, read_part
from wukong.errors import DataError

Progress = Callable[[int, int], None]
"""(slots that are done, bytes of rows and entries since it was called last)."""


def verify(backups: list[Backup], progress: Progress = lambda slots, size: None) -> list[str]:
    """What is wrong, one text per file: which, where, and what to do. Empty: all is whole. Raises OSError."""
    faults = []
    done = 0
    for backup in backups:
        for part in backup.manifest.slots:
            try:
                for pairs in read_part(backup.path / part.file, part):
                    progress(done, sum(len(key) + len(value) for key, value in pairs))
            except DataError as error:
                faults.append(str(error))
            done += 1
            progress(done, 0)
    return faults
