import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import resnet
from tests.models.test_layers import Only, make_layers


def make_stem(name, activates=True, **settings):
    return Only(make_layers(**settings), lambda layers, x: resnet.STEMS[name](x, 8, layers, activates))


@pytest.mark.parametrize("name", resnet.STEMS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_only_the_cifar_stem_keeps_the_size_and_others_quarter_it(name, size):
    output, _ = jax.eval_shape(make_stem(name).init_with_output, jax.random.key(0), jnp.zeros((1, *size, 3)))
    expected = size if name == "cifar" else tuple(-(-side // 4) for side in size)
    assert output.shape == (1, *expected, 8)


def test_the_deep_stem_has_half_the_width_before_its_last_convolution():
    params = jax.eval_shape(make_stem("deep").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    kernels = {name: tree["kernel"].shape for name, tree in params.items() if "conv" in name}
    assert kernels == {"stem_conv1": (3, 3, 3, 4), "stem_conv2": (3, 3, 4, 4), "stem_conv3": (3, 3, 4, 8)}
    assert params.keys() - kernels.keys() == {"stem_norm1", "stem_norm2", "stem_norm3"}


@pytest.mark.parametrize("name", resnet.STEMS)
def test_what_a_pre_activation_block_activates_itself_is_not_activated_by_the_stem(name):
    plain, activated = (
        jax.eval_shape(make_stem(name, activates).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
        for activates in (False, True)
    )
    assert (activated.keys() - plain.keys()) == {"stem_norm3" if name == "deep" else "stem_norm"}


def test_the_max_pool_of_bit_sees_zeros_beyond_the_border_and_that_of_others_does_not():
    images = -jnp.ones((1, 8, 8, 3))
    variables = {"params": {"stem_conv": {"kernel": jnp.ones((7, 7, 3, 8))}}}
    bit = make_stem("bit", activates=False).apply(variables, images)
    others = make_stem("imagenet", activates=False).apply(variables, images)
    np.testing.assert_array_equal(bit[0, :, :, 0] == 0, [[True, True], [True, False]])
    assert (others < 0).all()
    np.testing.assert_array_equal(bit[:, 1:, 1:], others[:, 1:, 1:])


def test_an_anti_aliased_pool_gives_a_bright_pixel_the_same_weight_wherever_it_is():
    """The point of Zhang 2019: a max-pool with a stride sees it in one place, two or four."""

    def weights(blur):
        layers, dark = make_layers(blur_pool=blur), jnp.zeros((1, 16, 16, 1))
        return {float(resnet.max_pool(dark.at[0, 6, 6 + x].set(1.0), layers).sum()) for x in (0, 1)}

    assert weights(blur=True) == {1.0}
    assert weights(blur=False) == {1.0, 2.0}
