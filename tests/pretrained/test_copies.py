"""Copies of the weights among the arrays of a file, as training scripts name them."""

import logging

import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.pretrained import copies, naming
from resnet_jax.pretrained.weight_files import Weights

NAMES = ("conv1.weight", "layer1.0.conv1.weight", "fc.bias")


def weights(*prefixes, beside=(), counters=()):
    """Return weights with a copy after each prefix. The arrays of a copy hold the number of their prefix."""
    arrays = {
        f"{prefix}{name}": np.full(2, number, np.float32) for number, prefix in enumerate(prefixes) for name in NAMES
    }
    return Weights(arrays | dict.fromkeys(beside, np.zeros(1, np.float32)), {}, dict.fromkeys(counters, "int64"))


def chosen(*arguments, key=None, **keywords):
    """Return the number of the prefix of the copy that is chosen."""
    copy = copies.choose(weights(*arguments, **keywords), "w.pth", key)
    assert copy.scheme is naming.TORCHVISION
    assert copy.arrays.keys() == set(NAMES)
    (number,) = {array[0] for array in copy.arrays.values()}
    return number


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "state_dict.",
        "module.",
        "model.module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "state_dict.model._orig_mod.",  # Lightning, compiled
        "_fsdp_wrapped_module._checkpoint_wrapped_module.",
        "backbone.",
        "encoder.",
        "a.b.c.",
    ],
)
def test_copy_is_found_after_any_prefix(prefix):
    assert chosen(prefix) == 0


def test_wrappers_within_names_are_removed():
    """A script may compile only the blocks, or pickle a whole model."""
    arrays = ["_modules.layer1._modules.0._orig_mod._modules.conv1._parameters.weight", "_modules.fc._parameters.bias"]
    copy = copies.choose(Weights(dict.fromkeys(arrays, np.zeros(1)), {}), "w.pth")
    assert copy.arrays.keys() == {"layer1.0.conv1.weight", "fc.bias"}


def test_arrays_outside_of_the_copy_are_left_out():
    beside = ("state_dict.criterion.weight", "optimizer.state.0.exp_avg", "epoch")
    assert chosen("state_dict.model.", beside=beside) == 0


def test_integers_in_the_copy_are_kept_apart():
    copy = copies.choose(weights("", counters=["n_averaged", "queue_ptr"]), "w.pth")
    assert copy.arrays.keys() == set(NAMES)
    assert copy.other_dtypes == {"n_averaged": "int64", "queue_ptr": "int64"}


@pytest.mark.parametrize(
    ("prefixes", "counters"),
    [
        (["state_dict.", "state_dict_ema."], []),  # timm
        (["model.", "model_ema.module."], ["model_ema.n_averaged"]),  # torchvision's references
        (["model.module._orig_mod.", "ema.module._orig_mod."], []),
        (["state_dict.model.", "state_dict.ema_model.module."], ["state_dict.ema_model.n_averaged"]),
        (["net.", "callbacks.EMA.ema_state_dict."], []),
        (["online_model.", "ema_model."], ["step"]),  # ema-pytorch
        (["model.", "swa_model.module."], []),
        (["", "averaged."], []),
        (["ema_state_dict.module.backbone.", "state_dict.backbone."], ["ema_state_dict.steps"]),  # mmengine swaps them.
        (["current_model_state.model.", "state_dict.model."], ["averaging_state.n_averaged"]),  # Lightning
    ],
)
def test_moving_average_is_preferred(prefixes, counters):
    assert chosen(*prefixes, counters=counters) == 1
    assert chosen(*reversed(prefixes), counters=counters) == 0


@pytest.mark.parametrize(
    ("training_only", "main"),
    [
        ("state_dict.module.encoder_k.", "state_dict.module.encoder_q."),  # MoCo
        ("state_dict.module.momentum_encoder.", "state_dict.module.base_encoder."),  # MoCo v3
        ("target_encoder.net.", "online_encoder.net."),  # BYOL
    ],
)
def test_encoder_that_only_training_needs_is_not_chosen(training_only, main):
    assert chosen(training_only, main, beside=["state_dict.module.queue"], counters=["queue_ptr"]) == 1
    assert chosen(training_only) == 0


def test_init_key_selects_a_copy():
    assert chosen("state_dict.", "state_dict_ema.", key="state_dict") == 0
    assert chosen("state_dict.module.encoder_k.", "state_dict.module.encoder_q.", key="state_dict.encoder_k") == 0
    assert chosen("", "ema.", key="") == 0
    with pytest.raises(
        UserError, match=r"no weights 'ema'\. Set init_key to one of 'state_dict', 'state_dict_ema', or"
    ):
        chosen("state_dict.", "state_dict_ema.", key="ema")


def test_choice_among_copies_is_logged(caplog):
    with caplog.at_level(logging.INFO, "resnet_jax"):
        chosen("state_dict.")
        chosen("state_dict.", "state_dict_ema.")
    assert caplog.messages == [
        "w.pth holds several copies of the weights ('state_dict', 'state_dict_ema'). Loading 'state_dict_ema'. "
        "To load another one, set init_key."
    ]


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("ema_0.99.", "ema_0.999.", "model."), ("", "best.")])
def test_copies_without_a_preferred_one_are_refused(prefixes):
    with pytest.raises(UserError, match=r"w\.pth holds several copies .*\. Set init_key to the one to load\."):
        chosen(*prefixes)


def test_messages_name_no_setting_if_there_is_none(caplog):
    with pytest.raises(UserError, match=r"several copies .*\. Save the one to load in a file of its own\."):
        copies.choose(weights("student.", "teacher."), "w.pth", setting=None)
    with caplog.at_level(logging.INFO, "resnet_jax"):
        copies.choose(weights("model.", "ema."), "w.pth", setting=None)
    assert caplog.messages == ["w.pth holds several copies of the weights ('ema', 'model'). Loading 'ema'."]


def test_copies_that_only_a_wrapper_tells_apart_are_not_mixed():
    assert chosen("", "module.", key="module") == 1


def test_names_of_other_models_are_refused():
    other = Weights(dict.fromkeys(["features.0.weight", "features.0.bias"], np.zeros(1)), {})
    with pytest.raises(UserError, match=r"features\.0\.weight, features\.0\.bias.* Give weights from torchvision"):
        copies.choose(other, "w.pth")


def test_moving_average_without_names_is_reported(caplog):
    """torch_ema saves the averages as a list."""
    with caplog.at_level(logging.WARNING):
        assert chosen("state_dict.", beside=("ema.shadow_params.0", "ema.shadow_params.1")) == 0
    assert "also holds a moving average, but its arrays have no names" in caplog.text
