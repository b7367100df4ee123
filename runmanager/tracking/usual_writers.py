"""Where rows go unless a RunManager is told otherwise: the tables in results/, TensorBoard and the screen."""

from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.writers import Writer


def usual_writers(
    sweep_dir: SweepDir, *, tables: bool, tensorboard: bool, histograms_every: int, quiet: bool
) -> list[Writer]:
    """The writers that are wanted, each imported here, where it is used, since a worker starts in a tenth of a second.

    Args:
        sweep_dir: whose tables are kept current.
        tables: whether they are.
        tensorboard: whether TensorBoard logs are written.
        histograms_every: epochs from one set of histograms to the next; 0 for none.
        quiet: show nothing.
    """
    chosen: list[Writer] = []
    if tables:
        from runmanager.tracking.results import ResultsWriter

        chosen.append(ResultsWriter(sweep_dir))
    if tensorboard:
        from runmanager.tracking.tensorboard import TensorBoardWriter

        chosen.append(TensorBoardWriter(histograms_every))
    if not quiet:
        from runmanager.tracking.display import make_display

        chosen.append(make_display())
    return chosen
