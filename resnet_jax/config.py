"""The settings of a run: names, types, defaults and descriptions.

`default()` returns the whole tree. A recipe in `configs/` starts from it and overrides what it needs:

    def get_config():
        config = default()
        config.dataset.name = "cifar10"
        return config

The comments in `default()` are also the descriptions in `docs/settings.md`. Names that come from a table (models,
datasets, optimizers, ...) are checked next to that table. Everything else is checked in `config_check`.
"""

import json

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from resnet_jax.errors import UserError, first_line

# A resumed run may change these. `num_epochs` may only grow.
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
# If any of these settings are unset when a new run starts, they are determined from the data, the pretrained weights
# and the devices, where that is possible, and are stored. A resumed run uses the stored values. It refuses to start if
# another value is set.
RESOLVED_AT_START = (
    "dataset.validation_split",
    "dataset.test_split",
    "dataset.multi_label",
    "dataset.image_size",
    "dataset.eval_resize",
    "dataset.eval_crop",
    "dataset.bit_depth",
    "dataset.mean",
    "dataset.std",
    "dataset.feed",
    "steps_per_call",
    "federated.clients",
)
UNRESOLVED = (None, "", "auto")  # values of a setting that is still to be determined


def default() -> ConfigDict:
    """Return every setting with its default. The tree is locked, so a misspelled name raises AttributeError.

    Example:
      >>> config = default()
      >>> config.optimizer.name, config.optimizer.learning_rate
      ('sgd', 0.1)
    """
    config = ConfigDict()
    config.seed = 0  # initial weights, example order and augmentation are functions of (seed, step)

    config.dataset = ConfigDict()
    config.dataset.name = "digits"  # a TFDS name; or "folder:", "csv:", "images:", "clients:" ... and a path
    config.dataset.data_dir = placeholder(str)  # TFDS directory, default $TFDS_DATA_DIR; or where "folder:/path" moved
    config.dataset.multi_label = placeholder(bool)  # whether images have any number of labels; unset: from the data
    config.dataset.train_split = "train"  # TFDS syntax: "train", "train[:80%]", "train[:45000]", "train+test"
    config.dataset.validation_split = ""  # "": own, else a tenth of each train class; "fold:1/5": a fifth; "none": none
    config.dataset.test_split = ""  # read once, at the end. "": the dataset's own, if any; "none": no test result
    config.dataset.sampler = "uniform"  # "uniform": each example once per epoch; "balanced": each class equally often
    config.dataset.feed = "auto"  # "resident" in device memory, "streaming" from disk; "auto": by size and memory
    config.dataset.image_size = placeholder(int)  # pixels; unset: from init_from, else as stored (224 if sizes differ)
    config.dataset.eval_resize = placeholder(int)  # short side before the center crop; unset: 8/7 of eval_crop
    config.dataset.eval_crop = placeholder(int)  # side in pixels of the center crop in evaluation; unset: image_size
    config.dataset.bit_depth = placeholder(int)  # bits that 16-bit images use, 8 to 16; unset: measured by a new run
    config.dataset.num_workers = placeholder(int)  # decoding processes; unset: one per core, up to 16; 0: threads
    config.dataset.max_unreadable = 100  # the run stops if more images than this cannot be read
    config.dataset.mean = placeholder(tuple)  # per channel, of pixels in [0, 1]; unset: from init_from, else measured
    config.dataset.std = placeholder(tuple)  # per channel, of pixels in [0, 1]; set both mean and std, or neither

    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # pixels of border to add before a random crop back to the original size
    config.augment.crop_border = "black"  # what the border shows: "black", or "reflect" for the mirrored image
    config.augment.random_resized_crop = ()  # (0.08, 1.0): crop a random 8% to 100% of the area, then resize; (): off
    config.augment.horizontal_flip = False  # mirror each image with probability 0.5
    config.augment.alternating_flip = False  # mirror each image in either the even or the odd epochs, at random
    config.augment.rotation = 0.0  # largest random rotation in degrees, in either direction
    config.augment.color_jitter = ()  # strengths of brightness, contrast, saturation, hue, such as (0.4, 0.4, 0.4, 0.1)
    config.augment.color_jitter_share = 1.0  # probability of the color jitter
    config.augment.grayscale = 0.0  # probability of turning an image gray
    config.augment.gaussian_blur = 0.0  # probability of a blur with a sigma of 0.1 to 2 pixels
    config.augment.solarize = 0.0  # probability of inverting all pixel values of at least 128
    config.augment.progressive_resizing = ()  # ("96=0.3", "128=0.5"): 96 pixels for 0.3 of the epochs, 128 up to 0.5
    config.augment.randaugment = ()  # (operations per image, magnitude 0 to 10[, std of the magnitude]), such as (2, 9)
    config.augment.trivial_augment = False  # one random operation of those of RandAugment, with a random strength
    config.augment.repeats = 1  # differently augmented copies per image; an epoch shows 1/repeats of the images
    config.augment.random_erasing = 0.0  # probability of erasing a random rectangle of an image
    config.augment.cutout = 0  # side in pixels of the square erased from every image
    config.augment.mixup = 0.0  # alpha of the beta distribution that draws the mixing weights; 0: off
    config.augment.cutmix = 0.0  # alpha for the pasted area; 0: off; if mixup is on too, each batch gets one of the two

    config.model = ConfigDict()
    config.model.name = "resnet20"  # any name that the command `models` lists; it determines the unset settings below
    config.model.stem = placeholder(str)  # "imagenet" (7x7/2, max-pool), "cifar" (3x3/1), "deep", "bit", "whitening"
    config.model.shortcut = placeholder(str)  # "projection" (option B), "average_pool" (ResNet-D) or "pad" (option A)
    config.model.norm = placeholder(str)  # "batch_norm", "group_norm"; without normalization: "bias" or "scalar_bias"
    config.model.activation = placeholder(str)  # "relu", "gelu" or "silu"
    config.model.weight_standardization = placeholder(bool)  # standardize all kernels; meant for "group_norm"
    config.model.blur_pool = placeholder(bool)  # apply a low-pass filter wherever max-pools and blocks downsample
    config.model.squeeze_excitation = placeholder(int)  # 16: squeeze-and-excitation with channels / 16 hidden units
    config.model.residual_scale = placeholder(float)  # initial value of a learned factor of each residual; 0: SkipInit
    config.model.zero_init_residual = placeholder(bool)  # True: blocks start as the identity (Goyal et al. 2017)
    config.model.stochastic_depth = placeholder(float)  # drop probability of the last block; linearly less before it
    config.model.dropout = placeholder(float)  # dropout rate before the last convolution of each block
    config.model.remat = placeholder(bool)  # save memory by recomputing activations in the backward pass
    config.model.scan_blocks = placeholder(bool)  # run equal-shaped blocks in a loop: compiles faster, slower on a CPU
    config.model.dtype = "float32"  # "float32" or "bfloat16" for the computation; parameters and logits stay float32

    config.batch_size = 128  # examples per step, over all devices
    config.num_epochs = 10  # passes over the training split
    config.steps_per_call = placeholder(int)  # steps per compiled call; unset: 1 on CPU or if streaming, else up to 32

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # "sgd", "adam", "adamw", "lamb", "lars", "muon" (SGD for all but convolutions)
    config.optimizer.learning_rate = 0.1  # the peak of the schedule
    config.optimizer.momentum = 0.9  # used by "sgd", "lars" and "muon"
    config.optimizer.nesterov = True  # Nesterov momentum, used by "sgd", "lars" and "muon"
    config.optimizer.weight_decay = 1e-4  # L2 penalty in "sgd", "adam", "lars"; decoupled in "adamw", "lamb", "muon"
    config.optimizer.exempt_norm_and_bias = False  # apply decay and LAMB/LARS trust ratios to kernels only
    config.optimizer.fixed_kernel_norm = False  # rescale each convolution kernel to norm sqrt(outputs) at every step
    config.optimizer.grad_clip = placeholder(float)  # largest global norm of the gradient; unset: no clipping
    config.optimizer.accumulate_steps = 1  # microbatches per batch, computed one after another to save memory
    config.optimizer.backbone_scale = 1.0  # factor on the learning rate of all layers but the head
    config.optimizer.rate_factors = ()  # ('*/bias=2', 'head*=0.1'): factors on the learning rate; the last match counts
    config.optimizer.layer_decay = 1.0  # the learning rate of the d-th block below the head is scaled by layer_decay**d

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # "cosine", "linear" (to zero; triangular with a warm-up), "step" or "constant"
    config.schedule.warmup_epochs = 0.0  # linear warm-up from zero to the peak; if it covers the run, a tenth of it
    config.schedule.step_epochs = ()  # "step" only: epochs at which the learning rate is multiplied by step_factor
    config.schedule.step_factor = 0.1  # "step" only: the factor

    config.loss = ConfigDict()
    config.loss.name = "softmax_cross_entropy"  # or "softmax_cross_entropy_one_hot" (an alias), "binary_cross_entropy"
    config.loss.label_smoothing = 0.0  # share of the target that is spread evenly over all classes
    config.loss.class_weights = placeholder(str)  # factors on the loss by class: "balanced", or one per class "1,1,4"
    config.loss.focal_gamma = 0.0  # exponent that reduces the loss of examples classified well (Lin et al. 2017)
    config.loss.target_threshold = placeholder(float)  # "binary_cross_entropy": targets above it become 1, others 0

    config.loss.distill_from = placeholder(str)  # the teacher: a run directory or a weights file; unset: none
    config.loss.distill_model = placeholder(str)  # teacher's model; unset: from its weights file, else the student's
    config.loss.distill_weight = 0.5  # weight of the teacher's soft targets in the loss; the labels get the rest
    config.loss.temperature = 4.0  # divides the logits of teacher and student for the soft targets

    config.pretrain = ConfigDict()
    config.pretrain.method = placeholder(str)  # "barlow_twins", "byol", "simclr", "simsiam", "vicreg"; unset: none
    config.pretrain.projector = ()  # widths of the projector, such as (2048, 2048); (): those of the method's paper
    config.pretrain.predictor = ()  # widths of the predictor of "byol" and "simsiam"; (): those of the method's paper
    config.pretrain.temperature = 0.5  # divides the similarities of "simclr"
    config.pretrain.second_gaussian_blur = placeholder(float)  # probability for the second view; unset: the same
    config.pretrain.second_solarize = placeholder(float)  # probability for the second view; unset: the same

    config.federated = ConfigDict()
    config.federated.partition = placeholder(str)  # "iid", "dirichlet", "shards", "directories"; unset: not federated
    config.federated.clients = placeholder(int)  # number of clients; unset with "directories": one per directory
    config.federated.alpha = 1.0  # "dirichlet" only: the smaller, the fewer classes a client has
    config.federated.shards = 2  # "shards" only: number of shards per client
    config.federated.share = 1.0  # share of the clients that take part in a round, chosen at random
    config.federated.dropout = 0.0  # probability that a client takes part but does not answer
    config.federated.straggling = 0.0  # probability that a client has time for only a part of its steps
    config.federated.local_epochs = 1  # passes of a client over its examples per round
    config.federated.local_steps = placeholder(int)  # steps of a client per round, in place of local_epochs
    config.federated.proximal = 0.0  # factor of FedProx's penalty on the distance to the model of the server; 0: none
    config.federated.batch_norm = "averaged"  # statistics: "averaged", "recomputed"; "local": also scale and bias
    config.federated.server = "average"  # "average" (FedAvg), "momentum" (FedAvgM), "adam" or "yogi"
    config.federated.server_rate = 1.0  # learning rate of the server
    config.federated.server_momentum = 0.9  # used by "momentum", "adam" and "yogi"
    config.federated.server_epsilon = 1e-3  # "adam" and "yogi": added to the root of the second moment
    config.federated.compression = "none"  # "none", "int8" or "top_k": what clients send to the server
    config.federated.top_k_share = 0.01  # "top_k" only: share of the entries of an update that are sent
    config.federated.clip_norm = placeholder(float)  # largest norm of a client's update; unset: no clipping
    config.federated.noise_multiplier = 0.0  # std of the noise on the sum of updates, in units of clip_norm
    config.federated.delta = 1e-5  # delta of the (epsilon, delta)-differential privacy that train/epsilon reports

    config.batch_norm = ConfigDict()
    config.batch_norm.momentum = 0.9  # decay of the running statistics: new = momentum * old + (1 - momentum) * batch
    config.batch_norm.epsilon = 1e-5  # added to the variance
    config.batch_norm.group_size = 0  # examples that share statistics in training; 0: the whole batch, over all devices

    config.init_from = placeholder(str)  # initial weights: run directory, file, hf://owner/name or "pretrained[:TAG]"
    config.init_key = placeholder(str)  # which copy in a weights file, such as "state_dict"; unset: moving average
    config.init_skip = ()  # patterns of names of weights not to load; ('head*',) starts from a new head
    config.freeze = ()  # patterns of names of parameters not to train; ('stem*', 'stage*') trains only the head
    config.ema_decay = placeholder(float)  # decay of the average of weights that is evaluated, or of BYOL's target
    config.ema_recalibrate_steps = 0  # training batches that measure batch statistics of the average before evaluations

    config.early_stopping = ConfigDict()
    config.early_stopping.patience = placeholder(int)  # evaluations without improvement that end the run; unset: never
    config.early_stopping.metric = "top1"  # "top1", "loss", "map" for several labels, "knn" in pre-training
    config.early_stopping.min_delta = 0.0  # a gain must exceed this to count as an improvement

    config.tta = placeholder(str)  # "flip" or "mirror_translate": add test metrics with test-time augmentation
    config.log_every_steps = 50  # steps between reports of training metrics
    config.evaluate_every_epochs = 1  # epochs between evaluations; the last epoch is always evaluated
    config.profile_steps = placeholder(str)  # "100:110" writes a profiler trace of steps 100 to 109

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # epochs between saves; every new best and the last step are saved too
    config.checkpoint.every_minutes = 10.0  # longest time between two saves, also within an epoch
    config.checkpoint.keep = 2  # how many of the newest checkpoints to keep; the best one is kept too
    config.checkpoint.best_metric = "top1"  # "top1", "loss", "map" for several labels, "knn" in pre-training

    return config.lock()


def microbatch_size(config: ConfigDict) -> int:
    """Return how many images a step of the run computes at once."""
    return config.batch_size // config.optimizer.accumulate_steps


def get(config: ConfigDict, key: str):
    """Return the value of a dotted `key`.

    Example:
      >>> get(default(), "optimizer.learning_rate")
      0.1
    """
    for name in key.split("."):
        config = config[name]
    return config


def get_type(config: ConfigDict, key: str) -> type:
    """Return the type of the setting with this dotted `key`, even if it is unset.

    Example:
      >>> get_type(default(), "optimizer.grad_clip")
      <class 'float'>
    """
    section, _, name = key.rpartition(".")
    return (config[section] if section else config).get_type(name)


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Return every setting by its dotted name, sorted. A section without settings counts as a setting.

    Example:
      >>> leaves(default().schedule)["warmup_epochs"]
      0.0
    """
    settings = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            settings.update(leaves(value, f"{prefix}{name}."))
        else:
            settings[f"{prefix}{name}"] = value
    return settings


def to_json(config: ConfigDict) -> str:
    """Return the settings as indented JSON."""
    return config.to_json(indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """Return the settings that `to_json` wrote. Settings that an older version did not have keep their default.

    Raises:
      UserError: if the text is not JSON, or has names or types that the settings do not have.
    """
    config = default()

    def fill(tree: ConfigDict, values: dict, prefix: str) -> None:
        for name, value in values.items():
            if name not in tree:
                raise UserError(
                    f"config.json has an unknown setting ({prefix}{name}). Remove it, or use the version that wrote it."
                )
            if isinstance(tree[name], ConfigDict):
                fill(tree[name], value, f"{prefix}{name}.")
            else:
                tree[name] = tuple(value) if isinstance(value, list) else value

    try:
        fill(config, json.loads(text), "")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"config.json does not hold the settings of a run ({first_line(error)}). Restore it.") from None
    return config


def resume(stored: ConfigDict, requested: ConfigDict) -> ConfigDict:
    """Return the settings with which to resume a run.

    Args:
      stored: the settings in the run directory.
      requested: the settings that the user asks for now.

    Raises:
      UserError: if they differ in a setting that may not change when a run is resumed. The message names
        these settings.
    """
    resumed = requested.copy_and_resolve_references()
    before = leaves(stored)
    now = leaves(requested)
    for key in RESOLVED_AT_START:
        if now[key] in UNRESOLVED:
            section, _, name = key.rpartition(".")
            (resumed[section] if section else resumed)[name] = before[key]
            now[key] = before[key]
    changed = [key for key in before if before[key] != now[key] and key not in CHANGEABLE_ON_RESUME]
    if requested.num_epochs < stored.num_epochs:
        changed.append("num_epochs")
    if changed:
        differences = ", ".join(f"{key} (stored {before[key]!r}, now {now[key]!r})" for key in changed)
        raise UserError(
            f"this workdir belongs to a run with different settings: {differences}. Choose another --workdir."
        )
    return resumed
