"""The context of a launch of a study."""

from dataclasses import dataclass

from orchestrator.interrupts import Interrupts
from orchestrator.watching.progress import Progress


@dataclass(frozen=True)
class LaunchContext:
    """What all parts of a launch share; a `Context`."""

    progress: Progress
    interrupts: Interrupts

    @property
    def stopping(self) -> bool:
        """Whether the launch has been asked to save and stop."""
        return self.interrupts.requested

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.progress.note(text)

    def compare(self, done: int, total: int) -> None:
        """Show how many steps of comparing are done, of how many."""
        self.progress.compare(done, total)

    def draw(self, what: str, done: int, total: int) -> None:
        """Show how far the report is: what is being done, how many parts are, of how many."""
        self.progress.draw(what, done, total)

    def tick(self) -> None:
        """Do what is due between other work."""
        self.interrupts.stop_cells()
        self.progress.tick()
