"""Which trackers follow a launch."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.storage.store import Store
from orchestrator.tracking.cell_logs import CellLogs
from orchestrator.tracking.wandb_settings import wandb_settings
from orchestrator.tracking.wandb_tracker import WandbTracker
from orchestrator.watching.progress import Progress


@contextmanager
def tracked(progress: Progress, store: Store, study: str) -> Iterator[None]:
    """Let trackers follow the progress of a study: logs in the store, and W&B where asked for.

    Raises:
        UserError: The variables ask W&B for what it does not have.
    """
    folder = store.path if isinstance(store.path, Path) else Path.cwd()
    settings = wandb_settings(os.environ, folder)
    with ExitStack() as stack:
        progress.follow(stack.enter_context(CellLogs(store, progress.note)))
        if settings:
            runs = WandbTracker(settings, store, study, progress.note)
            progress.follow(stack.enter_context(runs))
        yield
