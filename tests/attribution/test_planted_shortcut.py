"""Maps of models that were trained with an informative and with a random patch; see docs/planted_shortcut.py."""

import runpy

import pytest

from tests.conftest import ROOT

IMAGES = 20  # The script explains all test images, which takes a minute.


@pytest.mark.slow
def test_maps_lie_in_the_patch_only_if_the_model_learned_from_it(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "planted_shortcut.py"))
    source = script["test_images"]()
    shares = {}
    for is_informative in (True, False):
        model = script["train"](is_informative, str(tmp_path / str(is_informative)))
        for method in script["EXPLAINED"]:
            maps = model.explain(source.images[:IMAGES], method, stage=script["STAGE"])
            shares[method, is_informative] = script["share_in_patch"](maps, source.labels[:IMAGES])
    for method in script["EXPLAINED"]:
        assert shares[method, True] > 2 * shares[method, False], shares
        assert shares[method, False] < 0.12, shares  # A map of equal values has 0.07.
    assert shares["integrated_gradients", True] > 0.4, shares
