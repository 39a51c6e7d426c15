"""The progress of a study: status, console, metrics, and the trackers that follow its cells."""
