import json

import numpy as np
import pytest

from resnet_jax.evaluation.metrics import reliability
from resnet_jax.report import chart_style, prediction_charts, training_charts
from resnet_jax.training.metrics_writer import Curve


def curves(*losses, split="train"):
    return {f"{split}/loss": Curve(list(range(1, len(losses) + 1)), list(losses))}


def test_a_loss_that_goes_far_down_has_a_logarithmic_scale():
    assert training_charts.loss({"run": curves(2.0, 0.02)}).layout.yaxis.type == "log"
    assert training_charts.loss({"run": curves(2.0, 1.5)}).layout.yaxis.type is None


def test_values_that_are_not_finite_or_nothing_at_all_can_be_drawn():
    chart = chart_style.as_html(training_charts.loss({"run": curves(2.0, float("nan"), float("inf"))}), "loss")
    assert "NaN" not in chart and "Infinity" not in chart
    assert "plotly-graph-div" in chart_style.as_html(training_charts.loss({"run": {}}), "loss")


def test_of_several_runs_each_has_a_colour_of_its_own():
    both = {**curves(2.0, 1.0), **curves(2.1, 1.1, split="validation")}
    chart = training_charts.loss({"first": both, "second": both})
    assert [trace.name for trace in chart.data] == [
        "first, training",
        "first, validation",
        "second, training",
        "second, validation",
    ]
    colours = [trace.line.color for trace in chart.data]
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_a_confusion_matrix_tells_right_from_wrong():
    matrix = np.array([[90, 0, 1], [0, 100, 0], [0, 4, 50]])
    (heatmap,) = prediction_charts.confusion(matrix, "abc").data
    assert heatmap.z[1][1] == 100 and heatmap.z[2][1] == -100  # the most of either kind
    assert heatmap.z[0][2] < 0 and heatmap.z[0][1] == 0
    assert heatmap.text[2][1] == "4" and heatmap.text[0][1] == ""
    assert np.array_equal(heatmap.customdata, matrix)


def test_of_many_classes_there_are_no_numbers_and_no_names_beside_it():
    names = [f"class {number}" for number in range(100)]
    chart = prediction_charts.confusion(np.eye(100, dtype=np.int64) * 7, names)
    assert chart.data[0].text is None and not chart.layout.xaxis.showticklabels
    assert list(chart.data[0].x) == names  # told when pointed at


def test_the_reliability_diagram_shows_each_bin(scored):
    bins = [each for each in reliability(scored.outcomes) if each.examples]
    accuracy, confidence, _, examples = prediction_charts.reliability(bins).data
    assert list(accuracy.y) == [each.accuracy for each in bins]
    assert list(confidence.y) == [each.confidence for each in bins]
    assert sum(examples.y) == 600
    lows = np.array(accuracy.y) - np.array(accuracy.error_y.arrayminus)
    assert (lows >= 0).all() and (lows < accuracy.y).all()


def test_time_is_told_by_what_it_was_spent_on():
    chart = training_charts.spent({"run": {"training": 600.0, "input": 30.0}}, several=False)
    assert {trace.name: trace.x[0] for trace in chart.data if trace.x[0]} == {"training": 10.0, "waiting for data": 0.5}


def test_long_names_are_shortened_in_their_middle():
    assert chart_style.short("fourteen chars") == "fourteen chars"
    assert chart_style.short("tmp/run_of_monday") == "tmp/run…monday"


@pytest.mark.parametrize("name", ["</script><b>", "<a href='https://example.com'>x</a>"])
def test_names_cannot_leave_the_data(name):
    chart = prediction_charts.confusion(np.eye(2, dtype=np.int64), [name, "b"])
    assert chart_style.as_html(chart, "confusion").count("</script>") == 1
    assert "<" not in json.loads(chart.to_json())["data"][0]["x"][0]
