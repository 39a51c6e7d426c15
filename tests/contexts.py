"""A context of a launch that records what it is told, and stops when a test says so."""


class RecordedContext:
    """Stands for a launch or a command.

    Attributes:
        notes: Lines that were printed.
        shown: What was being done, how much of it, and of how much.
    """

    def __init__(self, stopping=lambda: False):
        self._stopping = stopping
        self.notes, self.shown = [], []

    @property
    def stopping(self):
        return self._stopping()

    def note(self, text):
        self.notes.append(text)

    def compare(self, done, total):
        self.shown.append(("comparing", done, total))

    def draw(self, what, done, total):
        self.shown.append((what, done, total))
