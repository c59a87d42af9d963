"""Training in one call: start or resume a run, train it to its end, and score it on the test split."""

import dataclasses
import logging
import time
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from resnet_jax import config as settings
from resnet_jax.data import splits, workers
from resnet_jax.data.sources import Source, canonical_data_dir, canonical_name, open_sources
from resnet_jax.errors import Preempted, UserError
from resnet_jax.evaluation import multi_label
from resnet_jax.evaluation.evaluate import make_evaluate, score_run
from resnet_jax.evaluation.multi_label import MultiLabelExamples
from resnet_jax.runtime import cpu_tuning, parallel, provenance
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel, restore_chosen
from resnet_jax.training import experiment as experiments
from resnet_jax.training import federated_experiment
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.interruption import raise_preempted_on_signal
from resnet_jax.training.loop import Loop, Observe
from resnet_jax.training.metrics_logger import conclusion
from resnet_jax.training.phase_timer import shares_of_wall_time
from resnet_jax.workdir.checkpoints import Checkpoints, digest_of_json
from resnet_jax.workdir.lock import check_shared, locked
from resnet_jax.workdir.workdir import WorkDir

logger = logging.getLogger(__name__)


@raise_preempted_on_signal()
def train(
    config: ConfigDict, workdir: str, sources: Mapping[str, Source] | None = None, observe: Observe | None = None
) -> dict:
    """Start or resume the run that `config` describes, train it to its end, and score it on the test split.

    A finished run is not trained further unless `config.num_epochs` has increased.

    Args:
      config: settings, made from `resnet_jax.config.default()`.
      workdir: the run directory: a new one, or that of the run to resume.
      sources: your own data, one source per split, such as `{"train": ..., "test": ...}`. Default: the dataset that
        `config.dataset.name` names.
      observe: called before each call of the train step; see `loop.Observe`.

    Returns:
      The content of `result.json`: the metrics `validation`, `test` and `test_tta` (those of `test` with test-time
      augmentation, by its name), the `checkpoint_step` to which they belong, the number of `epochs`, the `seconds`
      without start-up and compilation, the seconds `spent` in each phase (see `PhaseTimer`), `goodput` (see
      `shares_of_wall_time`), and `provenance`.

    Raises:
      UserError: if something goes wrong that only the user can fix. Everything saved so far is kept.
      KeyboardInterrupt: after Ctrl-C, with everything saved unless it was pressed twice. The same call resumes.
      Preempted: after SIGTERM or SIGHUP, with everything saved. The same call resumes.

    Example:
      >>> import resnet_jax, resnet_jax.config, tempfile
      >>> config = resnet_jax.config.default()
      >>> config.num_epochs = 2
      >>> result = resnet_jax.train(config, tempfile.mkdtemp())  # doctest: +SKIP
    """
    if workers.is_worker_starting():
        raise UserError(
            'a script that trains on streamed images must call train inside an `if __name__ == "__main__":` block.'
        )
    began = time.time()
    mesh = parallel.make_mesh()
    experiments.check(config, mesh)
    federated_experiment.check(config)
    config = config.copy_and_resolve_references()
    config.dataset.name = canonical_name(config.dataset.name)
    config.dataset.data_dir = canonical_data_dir(config.dataset.data_dir)
    directory = WorkDir(workdir)
    with Reporter(active=parallel.is_main_process(), max_unreadable=config.dataset.max_unreadable) as reporter:
        check_shared(directory)
        if directory.exists():
            stored = directory.config()
            result = directory.result()
            config = settings.resume(stored, config)
            if config.num_epochs > stored.num_epochs:
                logger.info(f"The schedule now spans {config.num_epochs} epochs instead of {stored.num_epochs}.")
            elif result:
                logger.info(f"This run is finished.\n\n{conclusion(result, directory.path)}")
                return result
        directory.make()
        with locked(directory.path):
            if sources is None:
                sources = open_sources(config.dataset.name, config.dataset.data_dir)
            result = _train_and_score(config, directory, sources, reporter, observe, began)
            directory.write_result(result)
        logger.info(f"\n{conclusion(result, directory.path)}")
    return result


def _train_and_score(
    config: ConfigDict,
    directory: WorkDir,
    sources: Mapping[str, Source],
    reporter: Reporter,
    observe: Observe | None,
    began: float,
) -> dict:
    """Train to the last step, score the chosen checkpoint on the test split, and return the result."""
    is_new = not directory.exists()
    experiment = experiments.build(config, parallel.make_mesh(), sources, reporter, is_new)
    if config.federated.partition is not None:
        experiment = federated_experiment.from_experiment(experiment)
        empty = sum(not len(part) for part in experiment.sampler.parts)
        if empty:
            logger.warning(
                f"{empty} of {experiment.sampler.clients} clients have no training examples and take no part."
            )
    _check_equal_in_all_processes(experiment)
    if not is_new and directory.classes() != experiment.classes:
        raise UserError(
            f"this workdir belongs to a run with other classes ({', '.join(directory.classes())}). "
            "Choose another --workdir."
        )
    with directory.open_checkpoints(config.checkpoint.keep, config.checkpoint.best_metric) as checkpoints:
        loop = Loop(experiment, directory, checkpoints, reporter, observe, began)
        try:
            loop.run()
            trained = restore_chosen(directory, checkpoints)  # Before the result, because it may choose the next best.
            result = _result(checkpoints, loop)
            if experiment.label_sets is not None and experiment.validation is not None:
                trained, result["validation"] = _choose_thresholds(trained, experiment, directory, reporter)
            test_split = experiment.config.dataset.test_split
            if test_split != splits.NO_SPLIT:
                cpu_tuning.release_memory()  # A step may take most of the memory, and scoring needs some too.
                result["test"] = score_run(trained, sources, test_split, reporter)
                if config.tta:
                    result["test_tta"] = {config.tta: score_run(trained, sources, test_split, reporter, config.tta)}
        except (KeyboardInterrupt, Preempted):
            logger.info(f"Stopped.\n\n{conclusion(_result(checkpoints, loop), directory.path)}")
            if checkpoints.latest_step() is None:
                logger.info("Nothing was saved. Run the same command again to start from the first step.")
            else:
                logger.info(f"Saved at step {checkpoints.latest_step():,}. Run the same command again to resume.")
            raise
    return result


def _check_equal_in_all_processes(experiment: Experiment) -> None:
    """Raise `UserError` if processes of the run have other settings or data, with which their models would differ."""
    if jax.process_count() == 1:
        return
    config = experiment.config.copy_and_resolve_references()
    config.dataset.data_dir = config.dataset.num_workers = None
    digest = digest_of_json(
        {
            "settings": settings.to_json(config),
            "classes": experiment.classes,
            "sizes": experiment.split_sizes,
            "content": dict(experiment.content_digests),
        }
    )
    if parallel.count_distinct([digest]) > 1:
        raise UserError(
            "the processes of this run have different settings or data. Start all of them with the same flags, and "
            "give all of them the same data."
        )


def _choose_thresholds(
    trained: TrainedModel, experiment: Experiment, directory: WorkDir, reporter: Reporter
) -> tuple[TrainedModel, dict]:
    """For any number of labels per image, choose the thresholds on the validation examples and store them.

    Returns:
      The trained model with its thresholds, and the validation metrics with them.
    """
    assert experiment.label_sets is not None and experiment.validation is not None
    evaluate = make_evaluate(
        trained.model,
        trained.preprocess,
        settings.microbatch_size(trained.config),
        trained.mesh,
        label_sets=experiment.label_sets,
    )
    results = evaluate(trained.variables, experiment.validation, reporter=reporter)
    assert isinstance(results, MultiLabelExamples)
    thresholds = multi_label.choose_thresholds(results, experiment.label_sets)
    by_class = dict(zip(trained.classes, thresholds, strict=True))
    directory.write_thresholds({"checkpoint_step": trained.step, "thresholds": by_class})
    total = len(experiment.validation)
    metrics = multi_label.report(results, experiment.label_sets, trained.classes, total, thresholds).means
    return dataclasses.replace(trained, thresholds=thresholds), dataclasses.asdict(metrics)


def _result(checkpoints: Checkpoints, loop: Loop) -> dict:
    """Return the result of a run so far, without test metrics."""
    best = checkpoints.metrics.best()
    spent = loop.timer.seconds_by_phase()
    return {
        "checkpoint_step": checkpoints.chosen_step(),
        "validation": best.metrics if best else None,
        "test": None,
        "test_tta": None,
        "epochs": loop.step // loop.experiment.feed.steps_per_epoch,
        "seconds": loop.timer.seconds_without_compilation(),
        "spent": spent,
        "goodput": shares_of_wall_time(spent, time.time() - loop.began),
        "provenance": provenance.describe(),
    }
