import json

from resnet_jax import provenance


def test_is_json_and_tells_what_results_depend_on():
    described = json.loads(json.dumps(provenance.describe()))
    assert described["device_count"] == 8
    assert set(provenance.REPRODUCIBLE_WITHIN) <= described.keys()


def test_differences_name_what_changed():
    now = provenance.describe()
    assert provenance.differences(now, now) == []
    assert provenance.differences({**now, "device_count": 1, "date": "then"}, now) == ["device_count 1 -> 8"]
