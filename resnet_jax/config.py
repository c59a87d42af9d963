"""The settings of a run: their names, defaults and structure.

`default()` is the whole tree. A recipe in `configs/` starts from it and overrides what it needs:

    def get_config():
        config = default()
        config.dataset.name = "cifar10"
        return config

Names in tables (models, data sets, optimizers, ...) are checked beside each table, everything else in `config_check`.
"""

import json

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.errors import UserError, first_line, unknown_name

# What a resumed run may change without becoming another run. `num_epochs` may only grow.
CHANGEABLE_ON_RESUME = (
    "dataset.data_dir",
    "dataset.num_workers",
    "dataset.max_unreadable",
    "num_epochs",
    "log_every_steps",
    "evaluate_every_epochs",
    "profile_steps",
    "checkpoint.every_epochs",
    "checkpoint.every_minutes",
    "checkpoint.keep",
)
# Filled in once from the data and the device, stored with the run, and reused when it resumes.
RESOLVED_AT_START = (
    "dataset.validation_split",
    "dataset.test_split",
    "dataset.image_size",
    "dataset.eval_resize",
    "dataset.eval_crop",
    "dataset.mean",
    "dataset.std",
    "dataset.feed",
    "steps_per_call",
)
OPEN = (None, "", "auto")  # ways to leave a setting to be filled in


def default() -> ConfigDict:
    """Every setting with its default. The tree is locked: a misspelt name is an error, not a new setting."""
    config = ConfigDict()
    config.seed = 0  # initial weights, order of the examples and augmentation are functions of (seed, step)

    config.dataset = ConfigDict()
    config.dataset.name = "digits"  # "digits" (scikit-learn), "folder:/path", or a TFDS name: "cifar10", "mnist", ...
    config.dataset.data_dir = placeholder(str)  # of TFDS, unset: $TFDS_DATA_DIR; or where a folder has been moved to
    config.dataset.train_split = "train"  # TFDS syntax: "train", "train[:80%]", "train[:45000]", "train+test"
    config.dataset.validation_split = ""  # "": the set's own, else a tenth of every class of train; "none": no such
    config.dataset.test_split = ""  # read once, at the end. "": the set's own, if it has one; "none": no test result
    config.dataset.feed = "auto"  # "resident" in device memory, "streaming" from disk; "auto": as size and memory ask
    config.dataset.image_size = placeholder(int)  # pixels on a side that are trained on; unset: as they are, else 224
    config.dataset.eval_resize = placeholder(int)  # short side before the centre crop; unset: 8/7 of what is cut out
    config.dataset.eval_crop = placeholder(int)  # pixels on a side in evaluation; unset: image_size
    config.dataset.num_workers = placeholder(int)  # processes that decode; unset: one a core, up to 16; 0: threads
    config.dataset.max_unreadable = 100  # pictures that may turn out to be damaged before the run stops
    config.dataset.mean = placeholder(tuple)  # per channel, of pixels in [0, 1]; unset: measured on the training split
    config.dataset.std = placeholder(tuple)

    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # pixels of black border before a random crop back to the picture's size
    config.augment.random_resized_crop = ()  # (0.08, 1.0): cut out a part of this share of the area, and resize it
    config.augment.horizontal_flip = False  # mirror half of the pictures
    config.augment.rotation = 0.0  # by up to so many degrees either way
    config.augment.color_jitter = ()  # (0.4, 0.4, 0.4, 0.1): strengths of brightness, contrast, saturation and hue
    config.augment.randaugment = ()  # (operations a picture, magnitude 0 to 10[, deviation of it]), such as (2, 9)
    config.augment.random_erasing = 0.0  # probability that a rectangle of a picture is erased
    config.augment.cutout = 0  # pixels on a side of the square that is cut out of every picture
    config.augment.mixup = 0.0  # alpha of the beta distribution that the shares of two pictures come from
    config.augment.cutmix = 0.0  # the same for pasting a rectangle; with mixup, each batch gets one of the two

    config.model = ConfigDict()
    config.model.name = "resnet20"  # as `python main.py models` lists them; what is unset below is the variant's own
    config.model.stem = placeholder(str)  # "imagenet" (7x7/2, max-pool), "cifar" (3x3/1), "deep" (ResNet-D) or "bit"
    config.model.shortcut = placeholder(str)  # "projection" (option B), "average_pool" (ResNet-D) or "pad" (option A)
    config.model.norm = placeholder(str)  # "batch_norm", "group_norm", or instead a "bias" or one "scalar_bias"
    config.model.weight_standardization = placeholder(bool)  # of all kernels, which goes with "group_norm"
    config.model.blur_pool = placeholder(bool)  # a low-pass filter before blocks and max-pools stride
    config.model.squeeze_excitation = placeholder(int)  # channel attention, with its hidden layer so much smaller: 16
    config.model.residual_scale = placeholder(float)  # initial value of a learned factor of each residual; 0: SkipInit
    config.model.zero_init_residual = placeholder(bool)  # True: blocks start as the identity (Goyal et al. 2017)
    config.model.stochastic_depth = placeholder(float)  # probability to skip the last block in training, others less
    config.model.dropout = placeholder(float)  # before the last convolution of each block
    config.model.remat = placeholder(bool)  # compute activations twice instead of keeping them, which saves memory
    config.model.scan_blocks = placeholder(bool)  # compile equal blocks once, for very deep networks; runs slower
    config.model.dtype = "float32"  # of the computation, or "bfloat16"; parameters and logits are always float32

    config.batch_size = 128  # examples a step, over all devices
    config.num_epochs = 10
    config.steps_per_call = placeholder(int)  # steps in one compiled call; unset: 1 on CPU, else up to 32

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or "adam", "adamw", "lamb", "lars"
    config.optimizer.learning_rate = 0.1  # the peak of the schedule
    config.optimizer.momentum = 0.9  # "sgd" and "lars" only
    config.optimizer.nesterov = True  # "sgd" and "lars" only
    config.optimizer.weight_decay = 1e-4  # an L2 penalty in "sgd", "adam" and "lars", decoupled in "adamw" and "lamb"
    config.optimizer.exempt_norm_and_bias = False  # no weight decay, and in "lamb" and "lars" no trust ratio, on these
    config.optimizer.grad_clip = placeholder(float)  # largest global norm of the gradient; unset: none
    config.optimizer.accumulate_steps = 1  # parts that a batch is taken in, one after another, to save memory
    config.optimizer.backbone_scale = 1.0  # of the learning rate of all but the head
    config.optimizer.layer_decay = 1.0  # of the learning rate, once more for each block below the head

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # or "linear" (to zero), "step", "constant"
    config.schedule.warmup_epochs = 0.0  # linear from zero to the peak
    config.schedule.step_epochs = ()  # "step" only: the epochs at which the rate is multiplied by step_factor
    config.schedule.step_factor = 0.1

    config.loss = ConfigDict()
    config.loss.name = "softmax_cross_entropy"  # or "softmax_cross_entropy_one_hot", "binary_cross_entropy"
    config.loss.label_smoothing = 0.0  # the share of the target spread evenly over all classes
    config.loss.target_threshold = placeholder(float)  # "binary_cross_entropy" only: targets above it become 1

    config.loss.distill_from = placeholder(str)  # a run directory or a weights file: a teacher's logits are learned too
    config.loss.distill_model = placeholder(str)  # what a weights file is of; unset: of the same network as the student
    config.loss.distill_weight = 0.5  # of the teacher's soft targets in the loss; the labels have the rest
    config.loss.temperature = 4.0  # that divides both networks' logits for the soft targets

    config.batch_norm = ConfigDict()
    config.batch_norm.momentum = 0.9  # of the running statistics: new = momentum * old + (1 - momentum) * batch
    config.batch_norm.epsilon = 1e-5
    config.batch_norm.group_size = 0  # examples that share statistics in training; 0: the whole batch, on all devices

    config.init_from = placeholder(str)  # a run directory, .safetensors, .pth or .th file, or hf://owner/name
    config.init_skip = ()  # patterns of what is not taken from there: ('head*',) for other classes of the same number
    config.freeze = ()  # patterns of parameters that are not trained: ('stem*', 'stage*') spares the head
    config.ema_decay = placeholder(float)  # averages of the weights, which the run is judged by: 0.9999; unset: none

    config.log_every_steps = 50
    config.evaluate_every_epochs = 1
    config.profile_steps = placeholder(str)  # "100:110" writes a profiler trace of these steps

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # beside these, every new best and the last step are saved
    config.checkpoint.every_minutes = 10.0
    config.checkpoint.keep = 2  # the newest that stay; the best one stays besides
    config.checkpoint.best_metric = "top1"  # or "loss", on the validation split

    return config.lock()


def get(config: ConfigDict, key: str):
    """The value at a dotted `key`, such as "optimizer.learning_rate"."""
    for part in key.split("."):
        config = config[part]
    return config


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Every setting by its dotted name, sorted."""
    found = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found.update(leaves(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`; a setting that an older run did not know keeps its default.

    Raises:
      UserError: if it is no JSON, or holds other names or types than the settings have.
    """
    config = default()

    def fill(tree: ConfigDict, values: dict, prefix: str) -> None:
        for name, value in values.items():
            if name not in tree:
                raise unknown_name("setting", f"{prefix}{name}", leaves(config))
            if isinstance(tree[name], ConfigDict):
                fill(tree[name], value, f"{prefix}{name}.")
            else:
                tree[name] = tuple(value) if isinstance(value, list) else value

    try:
        fill(config, json.loads(text), "")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"these are no settings of a run ({first_line(error)}): restore the file") from None
    return config


def resume(stored: ConfigDict, wanted: ConfigDict) -> ConfigDict:
    """The settings with which a run stored as `stored` goes on when `wanted` is asked for.

    Raises:
      UserError: if they differ in what makes it another run, naming the settings.
    """
    resumed = wanted.copy_and_resolve_references()
    before, after = leaves(stored), leaves(wanted)
    for key in RESOLVED_AT_START:
        if after[key] in OPEN:
            section, _, name = key.rpartition(".")
            (resumed[section] if section else resumed)[name] = before[key]
            after[key] = before[key]
    changed = [key for key in before if before[key] != after[key] and key not in CHANGEABLE_ON_RESUME]
    if wanted.num_epochs < stored.num_epochs:
        changed.append("num_epochs")
    if changed:
        listed = ", ".join(f"{key} (there {before[key]!r}, here {after[key]!r})" for key in changed)
        raise UserError(f"this workdir belongs to another run, which differs in {listed}: choose another --workdir")
    return resumed
