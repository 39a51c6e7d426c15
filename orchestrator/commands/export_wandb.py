"""`tokensweep export-wandb`: the study's tables and figures as one run of a W&B project."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.commands.export import files_of, tables_of, with_lists_as_json
from orchestrator.commands.wandb_client import project_path, wandb_client
from orchestrator.console import line
from orchestrator.errors import not_one_of
from orchestrator.store.store import Store
from orchestrator.watching.wandb_tracker import DISCREET, MODES
from trainables.storage import layout

if TYPE_CHECKING:
    import pandas as pd

JOB_TYPE = "analysis"
MOST_ROWS = 10_000
"""Rows that W&B shows of a table; the files in the artifact have all rows."""


def export_study(store: Store, project: str, console: Console) -> None:
    """Upload the tables (to look at, and as files), the figures as images, and the page.

    `WANDB_MODE=offline` writes them to W&B's folder instead, for `wandb sync`.

    Args:
        store: The study's store.
        project: ENTITY/PROJECT.
        console: Where to print the address of the run.

    Raises:
        UserError: There are no tables, the project's name is not valid, or W&B cannot be reached.
    """
    entity, name = project_path(project)
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in MODES:
        raise not_one_of("WANDB_MODE", mode, MODES)
    tables, study = tables_of(store), store.read_study()["name"]
    figures = sorted(path.name for path in layout.FIGURE_PNG.found(store.path))
    with (
        TemporaryDirectory(prefix="wandb-") as folder,
        wandb_client(offline=MODES[mode] == "offline") as wandb,
    ):
        # Offline, the files have to outlive this command.
        kept = os.environ.get("WANDB_DIR") or (folder if MODES[mode] == "online" else ".")
        run = wandb.init(
            entity=entity,
            project=name,
            name=f"{study}: {JOB_TYPE}",
            group=study,
            job_type=JOB_TYPE,
            dir=kept,
            mode=MODES[mode],
            tags=list(filter(None, os.environ.get("WANDB_TAGS", "").split(","))) or None,
            config=_facts(store),
            settings=wandb.Settings(**DISCREET),
        )
        try:
            _log(wandb, run, store, tables, figures, Path(folder))
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()
        kept_in = run.settings.sync_dir
        where = run.url or f"{kept_in} (send it with: wandb sync {kept_in})"
    line(console, f"{study}: {len(tables)} tables and {len(figures)} figures in {where}")


def _log(
    wandb: Any, run: Any, store: Store, tables: "Mapping[str, pd.DataFrame]", figures: list[str],
    folder: Path,
) -> None:  # fmt: skip
    """Log tables and images, then all files as an artifact."""
    study = store.read_study()["name"]
    shown = {
        f"tables/{name}": wandb.Table(dataframe=_plain(table)) for name, table in tables.items()
    }
    artifact = wandb.Artifact(f"{study}-analysis", type=JOB_TYPE)
    for name, text in files_of(tables, ("csv", "latex"), study).items():
        _add(artifact, f"tables/{name}", text.encode())
    for name in figures:
        data = (store.figures / name).read_bytes()
        _add(artifact, f"figures/{name}", data)
        path = folder / name
        path.write_bytes(data)
        shown[f"figures/{path.stem}"] = wandb.Image(str(path))
    if store.report.is_file():
        _add(artifact, layout.PAGE.name(), store.report.read_bytes())
    run.log(shown)
    run.log_artifact(artifact)


def _add(artifact: Any, name: str, data: bytes) -> None:
    with artifact.new_file(name, mode="wb") as file:
        file.write(data)


def _plain(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the first rows as W&B takes them: missing values as None, lists as text."""
    head = with_lists_as_json(frame.head(MOST_ROWS)).astype(object)
    return head.where(head.notna(), None)


def _facts(store: Store) -> dict[str, object]:
    """Return the provenance of the numbers."""
    study = store.read_study()
    facts = {name: study[name] for name in ("versions", "git_commit") if name in study}
    return {"study": study["name"], "cells": len(study["cells"])} | facts
