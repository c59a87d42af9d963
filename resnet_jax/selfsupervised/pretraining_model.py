"""The model of pre-training: a ResNet without head, a projector and, for some methods, a predictor."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from resnet_jax.models import factory
from resnet_jax.models.resnet import ResNet
from resnet_jax.selfsupervised.pretraining_methods import find

ADDED_MODULES = ("projector", "predictor")  # what a `PretrainingResNet` has in addition to its ResNet


class Embeddings(NamedTuple):
    """Outputs of a `PretrainingResNet`.

    Attributes:
      features: float32 [batch, channels], the pooled features of the ResNet.
      projections: float32 [batch, width].
      predictions: float32 [batch, width]; the projections themselves if the method has no predictor.
    """

    features: jax.Array
    projections: jax.Array
    predictions: jax.Array


class MLP(nn.Module):
    """Dense layers with BatchNorm and ReLU between them. The statistics are those of the whole batch.

    Attributes:
      widths: the width of each layer.
      output_norm: whether a BatchNorm without scale and bias follows the last layer.
      norm_momentum, norm_epsilon: see `models.layers.Layers`.
    """

    widths: Sequence[int]
    output_norm: bool
    norm_momentum: float
    norm_epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map float32 [batch, channels] to float32 [batch, `widths[-1]`]."""

        def norm(x: jax.Array, name: str, is_output: bool) -> jax.Array:
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                use_scale=not is_output,
                use_bias=not is_output,
                name=name,
            )(x)

        for number, width in enumerate(self.widths, start=1):
            is_last = number == len(self.widths)
            has_norm = self.output_norm or not is_last  # The BatchNorm makes a bias superfluous.
            x = nn.Dense(width, use_bias=not has_norm, name=f"dense{number}")(x)
            if has_norm:
                x = norm(x, f"norm{number}", is_last)
            if not is_last:
                x = nn.relu(x)
        return x


class PretrainingResNet(ResNet):
    """A ResNet without head, whose pooled features go through a projector and a predictor.

    The variables of the ResNet have the names that they have without the other two. Both views of all images go through
    it as one batch, so they share batch statistics, as in the authors' code of SimCLR. The other methods' authors apply
    it to one view at a time.

    Attributes:
      projector: the widths of the projector.
      predictor: the widths of the predictor; empty: none.
      normalize_projections: whether a BatchNorm without scale and bias follows the projector.
    """

    projector: Sequence[int] = ()
    predictor: Sequence[int] = ()
    normalize_projections: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Embeddings:  # type: ignore[override]
        """Compute the embeddings of normalized images; see `ResNet`."""
        features = super().__call__(images, train)
        assert isinstance(features, jax.Array)
        mlp = functools.partial(MLP, norm_momentum=self.norm_momentum, norm_epsilon=self.norm_epsilon)
        projections = mlp(self.projector, output_norm=self.normalize_projections, name="projector")(features, train)
        if not self.predictor:
            return Embeddings(features, projections, projections)
        predictions = mlp(self.predictor, output_norm=False, name="predictor")(projections, train)
        return Embeddings(features, projections, predictions)


def model_of_run(config: ConfigDict, num_classes: int) -> ResNet:
    """Return the model that a run trains. Its checkpoints hold the variables of this model.

    In pre-training, it is a `PretrainingResNet`, otherwise the ResNet of `factory.from_config`.
    """
    if config.pretrain.method is None:
        return factory.from_config(config, num_classes)
    method = find(config.pretrain.method)
    backbone = factory.from_config(config, num_classes=0)
    attributes = {
        field.name: getattr(backbone, field.name)
        for field in dataclasses.fields(ResNet)
        if field.name not in ("parent", "name")
    }
    return PretrainingResNet(
        **attributes,
        projector=config.pretrain.projector or method.projector,
        predictor=(config.pretrain.predictor or method.predictor) if method.predictor else (),
        normalize_projections=method.normalizes_projections,
    )


def without_added_modules(variables: dict) -> dict:
    """Return the variables of the ResNet alone: `{"params": ..., "batch_stats": ...}` without `ADDED_MODULES`."""
    return {
        collection: {name: values for name, values in modules.items() if name not in ADDED_MODULES}
        for collection, modules in variables.items()
    }
