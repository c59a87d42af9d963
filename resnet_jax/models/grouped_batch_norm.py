"""BatchNorm with statistics of small groups, whatever the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupedBatchNorm(nn.BatchNorm):
    """BatchNorm over groups of `group_size` consecutive examples: "ghost" BatchNorm (Hoffer et al. 2017, algorithm 1).

    So a large batch is normalised as a small one would be. Where no group is spread over several devices, they need not
    wait for each other's statistics. The running ones move towards the means over all groups, once a step; Hoffer et
    al. move them group by group. Variables, and what evaluation does with them, are those of `nn.BatchNorm`.

    Attributes:
      group_size: it divides the batch.
    """

    group_size: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        """Normalises [batch, ..., channels]."""
        if use_running_average:
            return super().__call__(x, use_running_average=True)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)

        groups = x.astype(jnp.float32).reshape(-1, self.group_size, *x.shape[1:])
        within = tuple(range(1, groups.ndim - 1))
        mean = jnp.mean(groups, within, keepdims=True)
        var = jnp.maximum(0.0, jnp.mean(jnp.square(groups), within, keepdims=True) - jnp.square(mean))
        if not self.is_initializing():
            for running, value in ((running_mean, mean), (running_var, var)):
                over_groups = jnp.mean(value.reshape(-1, *channels), axis=0)
                running.value = self.momentum * running.value + (1 - self.momentum) * over_groups
        normalized = (groups - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalized.reshape(x.shape).astype(self.dtype or x.dtype)
