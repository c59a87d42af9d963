import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models.factory import create_model
from resnet_jax.training.optimizer import part_factors, scale_by_part


def test_factors_fall_from_the_head_to_the_stem():
    model = create_model("resnetv2_164", 10)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))["params"]
    factors = part_factors(params, 0.1, 0.5, model.stage_sizes)
    assert factors["head"] == {"kernel": 1.0, "bias": 1.0}
    assert factors["final_norm"]["scale"] == factors["stage3_block18"]["conv1"]["kernel"] == 0.05
    assert factors["stage3_block9"]["conv1"]["kernel"] == 0.1 * 0.5**10
    assert factors["stage2_block18"]["conv1"]["kernel"] == 0.1 * 0.5**19
    assert factors["stem_conv"]["kernel"] == 0.1 * 0.5 ** (54 + 1)


def test_what_is_frozen_above_counts_as_a_layer():
    some = {"stem_conv": {"kernel": 1}, "stage1_block2": {"conv1": {"kernel": 1}}, "head": {"kernel": 1}}
    factors = part_factors(some, 1.0, 0.5, (2, 3))
    assert factors == {
        "stem_conv": {"kernel": 0.5**6},
        "stage1_block2": {"conv1": {"kernel": 0.5**4}},
        "head": {"kernel": 1.0},
    }


@pytest.mark.parametrize(("backbone_scale", "layer_decay"), [(0.1, 1.0), (1.0, 0.5)])
def test_updates_are_multiplied(backbone_scale, layer_decay):
    updates = {"head": {"kernel": jnp.ones(2)}, "stage1_block1": {"conv1": {"kernel": jnp.full(3, 2.0)}}}
    transformation = scale_by_part(backbone_scale, layer_decay, (1,))
    scaled, _ = transformation.update(updates, transformation.init(updates))
    np.testing.assert_array_equal(scaled["head"]["kernel"], 1)
    np.testing.assert_allclose(scaled["stage1_block1"]["conv1"]["kernel"], 2 * backbone_scale * layer_decay)
