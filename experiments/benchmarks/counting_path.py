"""A study's folder that notes what is read in it, by whichever process."""

from collections import Counter
from pathlib import Path, PosixPath

LOG = "reads.txt"


class CountingPath(PosixPath):
    """Notes every file that is read, in a file beside the folder named `study` that it is in."""

    def read_bytes(self) -> bytes:
        """Return the file's content, and note its name and size."""
        data = super().read_bytes()
        place = self.parts.index("study")
        with Path(*self.parts[:place], LOG).open("a") as log:
            log.write(f"{'/'.join(self.parts[place + 1 :])} {len(data)}\n")
        return data


def reads(study: Path) -> tuple[Counter[str], Counter[str]]:
    """Return how often, and how many bytes, each file below `study` was read since last asked."""
    log = Path(study.parent, LOG)
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    times, sizes = Counter(name for name, _ in lines), Counter[str]()
    for name, size in lines:
        sizes[name] += int(size)
    return times, sizes
