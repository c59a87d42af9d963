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


def test_a_run_from_before_there_was_tuning_was_not_tuned():
    now = provenance.describe()
    before = {key: value for key, value in now.items() if key != "cpu_is_tuned"}
    assert provenance.differences(before, {**now, "cpu_is_tuned": False}) == []
    assert provenance.differences(before, {**now, "cpu_is_tuned": True}) == ["cpu_is_tuned False -> True"]
