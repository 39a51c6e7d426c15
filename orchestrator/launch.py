"""The phases of a launch: train, evaluate, compare, measure, and write the report."""

from dataclasses import dataclass
from functools import partial

from orchestrator.cluster.ray_setup import prepare_ray
from orchestrator.results.reporting import write_report
from orchestrator.store.store import Store
from orchestrator.store.verified import Verified
from orchestrator.study.estimates import Estimates
from orchestrator.study.selection import Options, Selection
from orchestrator.study.work import (
    Remaining,
    left_to_do,
    report_is_left,
    stored_cells,
    update_measured,
)
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.progress import StatusPublisher
from orchestrator.watching.status import keep_status

STATUS_SECONDS = 15.0


@dataclass(frozen=True)
class Launch:
    """One launch of a study, whose cells are checked and described in the store."""

    selection: Selection
    options: Options
    estimates: Estimates
    context: LaunchContext
    verified: Verified

    def run(self) -> bool:
        """Do what is left of all phases; return whether comparing and measuring worked."""
        work = left_to_do(self.selection, self.options, self.context)
        status = StatusPublisher("the status", partial(keep_status, self.store), STATUS_SECONDS)
        # If nothing is left, the status of the last launch that did something stays.
        with self.context.progress.publishing(*[status] if work else []):
            succeeded = not work or self._use_ray(work)
            measures = "measure" in self.options.phases and (work or work.outdated.speeds)
            if measures and not self.context.stopping:
                update_measured(self.selection)
            if "report" in self.options.phases and not self.context.stopping:
                self._report()
        return succeeded

    @property
    def store(self) -> Store:
        """The study's store."""
        return self.selection.store

    def _use_ray(self, work: Remaining) -> bool:
        address = prepare_ray(self.options.address)
        # Importing Ray takes seconds, and a finished study does not need it.
        from orchestrator.cluster_phases import ClusterPhases

        phases = ClusterPhases(
            self.selection, self.options, work, self.estimates, self.context, self.verified
        )
        return phases.run(address)

    def _report(self) -> None:
        if report_is_left(self.selection, self.context):
            cells = stored_cells(self.selection)
            write_report(self.store, cells, self.options.data, self.context)
