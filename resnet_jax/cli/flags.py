"""Flags that several commands share.

absl registers each flag as soon as it is defined. So each shared flag is defined by a function, which the module of a
command calls when it is imported. As a result, only the flags of the command that runs exist.
"""

from collections.abc import Sequence

from absl import flags
from absl.flags import FlagHolder
from ml_collections import ConfigDict, config_flags

from resnet_jax import config as settings
from resnet_jax.cli import recipe
from resnet_jax.errors import UserError


class RecipeParser(flags.ArgumentParser):
    """Parses the value of --config; see `recipe.load`."""

    def parse(self, argument: str) -> ConfigDict:
        return recipe.load(argument)


class OptionalParser(flags.ArgumentParser):
    """Parses "None" as None, which unsets a setting, and leaves everything else to another parser."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument):
        return None if argument == "None" else self._parser.parse(argument)


# The parsers of the flags that override settings, by the type of the setting. `_unset_none_tuples` is for tuples.
SETTING_PARSERS = {
    int: OptionalParser(flags.IntegerParser()),
    float: OptionalParser(flags.FloatParser()),
    bool: OptionalParser(flags.BooleanParser()),
    str: OptionalParser(flags.ArgumentParser()),
}


def define_config(
    description: str = "The recipe, such as configs/cifar10.py.",
    required: bool = True,
    flag_values: flags.FlagValues = flags.FLAGS,
    argv: Sequence[str] | None = None,
) -> FlagHolder:
    """Define --config, and with it a flag for every setting, such as --config.seed. The value None unsets a setting.

    Args:
      description: the help text.
      required: whether the command needs the flag.
      flag_values: where to define the flags.
      argv: the command line that `flag_values` will parse; None: `sys.argv`.
    """
    for kind, parser in SETTING_PARSERS.items():
        config_flags.register_flag_parser_for_type(kind, parser)
    holder = config_flags.DEFINE_config_file("config", None, description, flag_values, sys_argv=argv)
    flag_values["config"].parser = RecipeParser()
    flags.register_validator("config", _unset_none_tuples, flag_values=flag_values)
    if required:
        flags.mark_flag_as_required("config", flag_values)
    return holder


def _unset_none_tuples(config: ConfigDict | None) -> bool:
    """Unset the tuples that a flag sets to "None", which the tuple parser of ml_collections reads as (None,)."""
    if config is not None:
        nones = [key for key, value in settings.leaves(config).items() if value == (None,)]
        config.update_from_flattened_dict(dict.fromkeys(nones))
    return True


def define_workdir(description: str = "The run directory.", required: bool = True) -> FlagHolder:
    """Define --workdir."""
    holder = flags.DEFINE_string("workdir", None, description)
    if required:
        flags.mark_flag_as_required("workdir")
    return holder


def define_format(*more: str) -> FlagHolder:
    """Define --format, with the values text, json and those in `more`."""
    description = "How to print the result. json is a single line, the last on stdout."
    return flags.DEFINE_enum("format", "text", ["text", "json", *more], description)


def define_jobs() -> FlagHolder:
    """Define --jobs."""
    description = "How many runs to train at the same time, each with its share of the devices."
    return flags.DEFINE_integer("jobs", 1, description, lower_bound=1)


def given_recipe(config: FlagHolder):
    """Return the `studies.study.Recipe` that the flags --config and --config.SETTING name."""
    from resnet_jax.studies.study import Recipe

    flag = flags.FLAGS[config.name]
    path, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
    tuning = () if flags.FLAGS["tune_cpu"].value else ("--notune_cpu",)
    return Recipe(path, overrides, config.value, tuning)


def define_data_dir(description: str = "The location of the data, if it has moved since training.") -> FlagHolder:
    """Define --data_dir."""
    return flags.DEFINE_string("data_dir", None, description)


class ClusterFlags:
    """The flags --coordinator, --num_processes and --process_id: how the processes of a run find each other.

    TPU pods and Slurm jobs do not need these flags, because JAX detects them.
    """

    def __init__(self):
        self._coordinator = flags.DEFINE_string(
            "coordinator", None, "HOST:PORT of process 0, for several machines other than a TPU pod or a Slurm job."
        )
        self._num_processes = flags.DEFINE_integer("num_processes", None, "How many processes there are in all.")
        self._process_id = flags.DEFINE_integer("process_id", None, "The index of this process, from 0.")

    def check(self) -> tuple[str | None, int | None, int | None]:
        """Return the values of the three flags.

        Raises:
          UserError: if only some of the flags are given, or if they contradict each other.
        """
        holders = (self._coordinator, self._num_processes, self._process_id)
        missing = [f"--{holder.name}" for holder in holders if holder.value is None]
        if missing and len(missing) < len(holders):
            are = "is" if len(missing) == 1 else "are"
            raise UserError(
                f"--coordinator, --num_processes and --process_id go together, but {' and '.join(missing)} {are} "
                "missing. Give all three or none."
            )
        num_processes = self._num_processes.value
        process_id = self._process_id.value
        if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id ({process_id}) must be at least 0 and less than --num_processes ({num_processes})."
            )
        return self._coordinator.value, num_processes, process_id

    def join(self) -> None:
        """Connect to the other processes, if there are any. Call this before anything that touches a device.

        Raises:
          UserError: as `check` does, or if the first process cannot be reached.
        """
        values = self.check()
        # This imports JAX, which takes a while. It comes after the check of the flags, so that mistakes are reported at
        # once.
        from resnet_jax.runtime import cluster

        cluster.start(*values)


class ModelFlags:
    """The flags that name a model: --workdir for a run, or --config with --config.init_from for published weights.

    Attributes:
      workdir, config: the two flags.
    """

    def __init__(self):
        self.workdir = define_workdir(required=False)
        self.config = define_config("In place of --workdir, a recipe with --config.init_from=WEIGHTS.", required=False)

    def check(self, command: str) -> None:
        """Check that exactly one of --workdir and --config is given, and --config only with --config.init_from.

        Args:
          command: the name of the command, for the error message.

        Raises:
          UserError: if the flags do not name exactly one model.
        """
        if (self.workdir.value is None) == (self.config.value is None):
            raise UserError(
                f"{command} takes either --workdir, or --config with --config.init_from. Give exactly one of the two."
            )
        if self.config.value is not None and not self.config.value.init_from:
            raise UserError("--config.init_from is missing. Set it to the weights to load.")

    def load(self, split: str | None = None, data_dir: str | None = None, needs_dataset: bool = True):
        """Return the `TrainedModel` that the flags name.

        The class names of published weights come from the dataset of --config. So does the image size if neither the
        recipe nor the weights determine it. For a run, the arguments are ignored.

        Args:
          split: the split of this dataset that determines the image size; None: the test split.
          data_dir: the location of this dataset; None: as the recipe says.
          needs_dataset: whether the dataset is needed. If not, and if `data_dir` is None, nothing is downloaded, and a
            dataset that cannot be opened is no error.
        """
        from resnet_jax import config_check
        from resnet_jax.data.sources import open_local_sources, open_sources
        from resnet_jax.pretrained.load import load_pretrained, load_pretrained_without_data, open_initial_weights
        from resnet_jax.trained_model import load_run

        if self.workdir.value:
            return load_run(self.workdir.value)
        config = self.config.value
        config_check.check(config)  # Before anything is downloaded.
        weights = open_initial_weights(config)
        dataset = config.dataset.name, data_dir or config.dataset.data_dir
        if needs_dataset or data_dir:
            return load_pretrained(config, weights, open_sources(*dataset), split)
        try:
            sources = open_local_sources(*dataset)
        except UserError:
            return load_pretrained_without_data(config, weights)
        return load_pretrained(config, weights, sources, split)
