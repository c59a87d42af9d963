"""Copies of a ResNet's weights in a file: find them, and choose the one to load.

A training script often saves several copies, such as the weights and their moving average (EMA), and beside them other
arrays, such as the state of the optimizer. The names in a copy are those of a known scheme after a common prefix, which
is also the name of the copy: "state_dict_ema.layer1.0.conv1.weight" belongs to the copy "state_dict_ema".
"""

import logging
import re
from dataclasses import dataclass, field

import numpy as np

from resnet_jax.errors import UserError
from resnet_jax.pretrained.naming import Scheme, find_schemes
from resnet_jax.pretrained.weight_files import Weights

logger = logging.getLogger(__name__)

# Parts of names that come from PyTorch's wrappers (DataParallel, compile, FSDP) and from a pickled torch.nn.Module.
WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_modules|_parameters|_buffers)\."
)
# Words in the names of copies that are moving averages, and of copies that only training needs: the slowly moving
# encoders of MoCo and BYOL, and the weights that Lightning's WeightAveraging saves beside the averages.
AVERAGE = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])", re.IGNORECASE)
UNNAMED_AVERAGE = re.compile(r"(^|\.)shadow_params\.\d")  # of torch_ema, which saves a list
AUXILIARY = re.compile(r"(?<![a-z])(encoder_k|momentum|target|current_model_state)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Copy:
    """A copy of the weights in a file.

    Attributes:
      scheme: the naming scheme.
      arrays: float32 arrays by their names in `scheme`.
      other_dtypes: the dtypes of the arrays that are not floating-point, by name.
    """

    scheme: Scheme
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    other_dtypes: dict[str, str] = field(default_factory=dict)


def choose(weights: Weights, path: str, name: str | None = None, setting: str | None = "init_key") -> Copy:
    """Return a copy of the weights in a file.

    Args:
      weights: all arrays of the file.
      path: the path of the file, for messages.
      name: the name of the copy; None: the moving average, if there is one, or else the only copy. Copies that only
        training needs do not count.
      setting: the setting that holds `name`, for messages; None if there is no such setting.

    Raises:
      UserError: if there is no such copy, or no reason to prefer one.
    """
    copies = _find(weights)
    listed = ", ".join(map(repr, copies))
    if not copies:
        first_names = ", ".join([*weights.arrays, *weights.other_dtypes][:3])
        raise UserError(
            f"the array names in {path} ({first_names}, ...) are not those of a known ResNet. "
            "Give weights from torchvision, timm, Hugging Face, mmpretrain or akamaster."
        )
    if name is None:
        preferred = _preferred(copies, weights)
        if len(preferred) > 1:
            remedy = f"Set {setting} to the one to load." if setting else "Save the one to load in a file of its own."
            raise UserError(f"{path} holds several copies of the weights ({listed}). {remedy}")
        name = preferred[0]
        if any(UNNAMED_AVERAGE.search(array) for array in weights.arrays):
            logger.warning(
                f"{path} also holds a moving average, but its arrays have no names, so it cannot be loaded. "
                f"Loading {name!r} instead. To load the average, copy it into the model and save its state_dict."
            )
    elif name not in copies:
        raise UserError(f"{path} holds no weights {name!r}. Set {setting} to one of {listed}, or leave it unset.")
    if len(copies) > 1:
        hint = f" To load another one, set {setting}." if setting else ""
        logger.info(f"{path} holds several copies of the weights ({listed}). Loading {name!r}.{hint}")
    return copies[name]


def _find(weights: Weights) -> dict[str, Copy]:
    """Return the copies by their names. Arrays that belong to no copy are left out."""
    names = [*weights.arrays, *weights.other_dtypes]
    short_names = {WRAPPERS.sub("", name): name for name in names}
    if len(short_names) < len(names):  # The wrappers tell copies apart.
        short_names = {name: name for name in names}
    schemes = find_schemes(short_names)
    copies = {prefix: Copy(scheme) for prefix, scheme in schemes.items()}
    for short_name, name in short_names.items():
        prefix = max((prefix for prefix in schemes if short_name.startswith(prefix)), key=len, default=None)
        if prefix is None:
            continue
        if name in weights.arrays:
            copies[prefix].arrays[short_name.removeprefix(prefix)] = weights.arrays[name]
        else:
            copies[prefix].other_dtypes[short_name.removeprefix(prefix)] = weights.other_dtypes[name]
    return {prefix.removesuffix("."): copy for prefix, copy in copies.items()}


def _preferred(copies: dict[str, Copy], weights: Weights) -> list[str]:
    """Return the names of the copies to choose from.

    These are the moving averages; without any, the copies that are used after training; without any of these, all.
    """
    averages = [name for name in copies if AVERAGE.search(name)]
    if "ema_state_dict.steps" in weights.other_dtypes:
        # mmengine saves the averages as "state_dict", and the weights, with the counter "steps", as "ema_state_dict".
        averages = [name for name in copies if name not in averages]
    main = [name for name in copies if not AUXILIARY.search(name)]
    return averages or main or list(copies)
