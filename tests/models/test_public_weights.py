"""The table of public weights."""

import jax
import pytest

from resnet_jax.errors import UserError
from resnet_jax.models import factory, public_weights
from resnet_jax.models.public_weights import PUBLIC_WEIGHTS
from resnet_jax.models.variants import VARIANTS
from resnet_jax.pretrained import naming
from resnet_jax.trained_model import abstract_variables

ROWS = [(name, row) for name, rows in PUBLIC_WEIGHTS.items() for row in rows]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[row.hub_id for _, row in ROWS])
def test_row_is_complete(name, row):
    assert name in VARIANTS
    assert row.hub_id.startswith("timm/") and row.hub_id.endswith(f".{row.tag}")
    assert len(row.mean) == len(row.std) == 3
    assert row.license in ("apache-2.0", "bsd-3-clause", "cc-by-nc-4.0")
    assert row.eval_resize >= row.image_size >= 160
    assert row.num_classes == 1000 or (row.num_classes, row.top1) == (21843, None)
    assert row.top1 is None or 0.68 < row.top1 < 0.85
    assert public_weights.find(name, row.tag) is row


@pytest.mark.parametrize("name", PUBLIC_WEIGHTS)
def test_naming_scheme_of_the_weights_is_recognized(name):
    row = public_weights.find(name)
    model = factory.create_model(name, row.num_classes, stage_sizes=(1, 1, 1, 1))
    scheme = naming.scheme_for_model(model)
    leaves = jax.tree_util.tree_flatten_with_path(abstract_variables(model, 3))[0]
    shapes = {}
    for keys, leaf in leaves:
        path = tuple(key.key for key in keys)
        shapes[scheme.array_name(path, leaf.shape)] = scheme.array_shape(path, leaf.shape)
    assert naming.find_schemes(shapes) == {"": scheme}
    assert shapes[f"{scheme.modules['head']}.weight"][0] == row.num_classes


def test_tags_of_a_model_are_distinct_and_the_first_is_the_default():
    for name, rows in PUBLIC_WEIGHTS.items():
        assert len({row.tag for row in rows}) == len(rows)
        assert public_weights.find(name) is rows[0]
        assert rows[0].license != "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("resnet51", None, "unknown model 'resnet51'. Did you mean resnet"),
        ("resnet20", None, "resnet20 has no public weights. To list the models that have some, run: .*--pretrained"),
        ("resnet101d", "a1_in1k", "resnet101d has no public weights 'a1_in1k'. Choose one of ra2_in1k, gluon_in1k."),
    ],
)
def test_unknown_weights_are_refused(name, tag, message):
    with pytest.raises(UserError, match=message):
        public_weights.find(name, tag)


def test_list_models_returns_models_with_public_weights():
    names = factory.list_models("*50*", pretrained=True)
    assert {"resnet50", "resnet50d", "bit_r50x1"} < set(names) < set(factory.list_models("*50*"))
    assert "fixup_resnet50" not in names
    with pytest.raises(UserError, match="no model that matches 'resnet20' has public weights"):
        factory.list_models("resnet20", pretrained=True)
