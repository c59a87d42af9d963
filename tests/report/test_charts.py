import json
import re

import numpy as np
import pytest

from resnet_jax.evaluation.metrics import calibration_bins
from resnet_jax.report import chart_style, lr_range_chart, prediction_charts, training_charts
from resnet_jax.training.metrics_writer import Curve


def curves(*losses, split="train"):
    return {f"{split}/loss": Curve(list(range(1, len(losses) + 1)), list(losses))}


def test_loss_has_a_logarithmic_scale_if_it_falls_far():
    assert training_charts.loss({"run": curves(2.0, 0.02)}).layout.yaxis.type == "log"
    assert training_charts.loss({"run": curves(2.0, 1.5)}).layout.yaxis.type is None


def test_loss_can_be_drawn_with_non_finite_values_and_without_values():
    chart = chart_style.as_html(training_charts.loss({"run": curves(2.0, float("nan"), float("inf"))}), "loss")
    assert "NaN" not in chart and "Infinity" not in chart
    assert "plotly-graph-div" in chart_style.as_html(training_charts.loss({"run": {}}), "loss")


def test_negative_losses_of_a_range_test_are_inside_the_axis():
    """As with SimSiam, whose loss is a negative cosine similarity."""

    def loss_axis(losses):
        html = lr_range_chart.page(np.geomspace(1e-4, 1, 5), losses, losses, (1e-3, 1e-2))
        return json.loads(re.findall(r'"range":(\[[^]]*\])', html)[-1])

    losses = np.array([-0.05, -0.4, -0.9, -0.5, 0.8])
    bottom, top = loss_axis(losses)
    assert bottom == -0.9
    assert losses[0] < top < losses[-1]
    assert loss_axis(losses + 1) == pytest.approx([0, 1.5 * 0.95])


def test_each_run_has_its_own_color():
    both = {**curves(2.0, 1.0), **curves(2.1, 1.1, split="validation")}
    chart = training_charts.loss({"first": both, "second": both})
    assert [trace.name for trace in chart.data] == [
        "first, training",
        "first, validation",
        "second, training",
        "second, validation",
    ]
    colors = [trace.line.color for trace in chart.data]
    assert colors[0] == colors[1] != colors[2] == colors[3]


def test_confusion_matrix_shows_correct_predictions_and_mistakes_in_different_colors():
    matrix = np.array([[90, 0, 1], [0, 100, 0], [0, 4, 50]])
    (heatmap,) = prediction_charts.confusion_matrix(matrix, "abc").data
    assert heatmap.z[1][1] == 100 and heatmap.z[2][1] == -100  # the largest of either kind
    assert heatmap.z[0][2] < 0 and heatmap.z[0][1] == 0
    assert heatmap.text[2][1] == "4" and heatmap.text[0][1] == ""
    assert np.array_equal(heatmap.customdata, matrix)


def test_confusion_matrix_keeps_classes_of_equal_name_apart():
    (heatmap,) = prediction_charts.confusion_matrix(np.eye(3, dtype=np.int64), ["crane", "crow", "crane"]).data
    assert list(heatmap.x) == ["crane (label 0)", "crow", "crane (label 2)"]


def test_confusion_matrix_of_many_classes_shows_no_counts_and_no_names():
    names = [f"class {number}" for number in range(100)]
    chart = prediction_charts.confusion_matrix(np.eye(100, dtype=np.int64) * 7, names)
    assert chart.data[0].text is None and not chart.layout.xaxis.showticklabels
    assert list(chart.data[0].x) == names  # shown on hover


def test_reliability_diagram_shows_each_bin(scored):
    bins = [calibration_bin for calibration_bin in calibration_bins(scored.metrics) if calibration_bin.examples]
    accuracy, confidence, _, examples = prediction_charts.reliability_diagram(bins).data
    assert list(accuracy.y) == [calibration_bin.accuracy for calibration_bin in bins]
    assert list(confidence.y) == [calibration_bin.confidence for calibration_bin in bins]
    assert sum(examples.y) == 600
    lows = np.array(accuracy.y) - np.array(accuracy.error_y.arrayminus)
    assert (lows >= 0).all() and (lows < accuracy.y).all()


def test_time_is_shown_by_phase():
    chart = training_charts.time_spent({"run": {"training": 600.0, "input": 30.0}}, show_names=False)
    assert {trace.name: trace.x[0] for trace in chart.data if trace.x[0]} == {"training": 10.0, "waiting for data": 0.5}


def test_long_names_are_shortened_in_the_middle():
    assert chart_style.shorten("fourteen chars") == "fourteen chars"
    assert chart_style.shorten("tmp/run_of_monday") == "tmp/run…monday"


@pytest.mark.parametrize("name", ["</script><b>", "<a href='https://example.com'>x</a>"])
def test_class_names_are_escaped_in_chart_data(name):
    chart = prediction_charts.confusion_matrix(np.eye(2, dtype=np.int64), [name, "b"])
    assert chart_style.as_html(chart, "confusion").count("</script>") == 1
    assert "<" not in json.loads(chart.to_json())["data"][0]["x"][0]
