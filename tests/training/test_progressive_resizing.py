import pytest

import resnet_jax
from resnet_jax.errors import UserError
from resnet_jax.training.progressive_resizing import image_size, parse


def test_each_epoch_has_the_size_of_its_phase():
    phases = parse(("96=0.25", "128=0.5", "160=1"))
    assert [image_size(phases, epoch / 8) for epoch in range(8)] == [96, 96, 128, 128, 160, 160, 160, 160]
    assert image_size([], 0.0) is None


@pytest.mark.parametrize(
    "entries",
    [("160",), ("160=half",), ("0=0.5",), ("160=0",), ("160=1.1",), ("160=nan",), (160,), ("96=0.5", "128=0.5")],
)
def test_entries_of_another_form_are_refused(tiny_config, tmp_path, entries):
    tiny_config.augment.progressive_resizing = entries
    with pytest.raises(UserError, match=r"augment.progressive_resizing .* such as '160=0.5'"):
        resnet_jax.train(tiny_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
