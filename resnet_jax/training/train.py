"""Training in one call: start a run or go on with it, take it to its end, and score it."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data import workers
from resnet_jax.data.folder import canonical_name
from resnet_jax.data.sources import Source, open_sources
from resnet_jax.data.unreadable_images import UnreadableImages
from resnet_jax.errors import Preempted, UserError
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.runtime import parallel, provenance
from resnet_jax.terminal import ProgressLine
from resnet_jax.trained_model import load_run
from resnet_jax.training import experiment, metrics_logger
from resnet_jax.training.interruption import preemption
from resnet_jax.training.loop import Loop, Observe
from resnet_jax.workdir.lock import check_shared, locked
from resnet_jax.workdir.workdir import WorkDir


@preemption()
def train(
    config: ConfigDict, workdir: str, sources: Mapping[str, Source] | None = None, observe: Observe | None = None
) -> dict:
    """Trains what `config` describes, or goes on with it, and leaves a run directory in `workdir`.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      workdir: a directory to be made, or one that holds the same run.
      sources: your own data, a source for each base split; unset: the data set that `config.dataset.name` names.
      observe: is told of each call of the train step before it is made, see `Loop`.

    Returns:
      What `result.json` holds: `validation` and `test` figures, the `checkpoint_step` they are of,
      `seconds`, what they were `spent` on (see `PhaseTimer`), and `provenance`.

    Raises:
      UserError: for what only the user can mend; what was saved stays.
      KeyboardInterrupt: after Ctrl-C, with everything saved unless it was pressed twice; the same call goes on.
      Preempted: after SIGTERM, likewise.
    """
    if workers.is_starting():
        raise UserError('a script that trains on streamed pictures must do so under if __name__ == "__main__":')
    mesh = parallel.make_mesh()
    config = config.copy_and_resolve_references()
    config.dataset.name = canonical_name(config.dataset.name)
    experiment.check(config, mesh)
    directory, progress = WorkDir(workdir), ProgressLine(active=parallel.is_main_process())
    check_shared(directory)
    if directory.exists():
        stored, result = directory.config(), directory.result()
        config = settings.resume(stored, config)
        if config.num_epochs > stored.num_epochs:
            progress.print(f"The schedule now spans {config.num_epochs} epochs instead of {stored.num_epochs}.")
        elif result:
            progress.print(f"This run is finished.\n\n{metrics_logger.conclusion(result, directory.path)}")
            return result
    directory.make()
    unreadable = UnreadableImages(config.dataset.max_unreadable, progress.warn)
    reading = progress.counter("reading training examples")
    with locked(directory.path), directory:
        sources = sources or open_sources(config.dataset.name, config.dataset.data_dir)
        begins = not directory.exists()
        parts = experiment.prepare(config, mesh, sources, unreadable, reading, progress.print, begins)
        if not begins and directory.classes() != parts.classes:
            raise UserError(f"this workdir belongs to a run with other classes, {directory.classes()}: choose another")
        directory.open_checkpoints(config.checkpoint.keep, config.checkpoint.best_metric)
        loop = Loop(parts, directory, progress, observe)
        directory.forget_result()
        directory.describe(parts.config, parts.classes)
        try:
            loop.run()
            result = _result(directory, loop)
            test_split = parts.config.dataset.test_split
            if test_split != "none":
                reading = progress.counter("reading test examples")
                result["test"] = score_run(load_run(workdir), sources, test_split, unreadable, reading)
        except (KeyboardInterrupt, Preempted):
            progress.print(f"Stopped.\n\n{metrics_logger.conclusion(_result(directory, loop), directory.path)}")
            saved = directory.checkpoints.latest_step() or 0
            progress.print(f"Saved at step {saved:,}; the same command goes on from there.")
            raise
        directory.write_result(result)
    progress.print(f"\n{metrics_logger.conclusion(result, directory.path)}")
    return result


def _result(directory: WorkDir, loop: Loop) -> dict:
    """What is known of a run before the test split is read."""
    best = directory.checkpoints.figures.best()
    return {
        "checkpoint_step": directory.checkpoints.chosen_step(),
        "validation": best.figures if best else None,
        "test": None,
        "seconds": loop.clock.seconds(),
        "spent": loop.clock.spent(),
        "provenance": provenance.describe(),
    }
