import numpy as np

from resnet_jax.training import metrics_logger


def test_parameters_are_listed_by_part_in_the_order_of_the_network():
    names = ["head", "final_norm", "stage1_block10", "stage1_block2", "stage2_block1", "stem_conv", "stem_norm"]
    table = metrics_logger.parameter_table({name: {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)} for name in names})
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "stem_conv",
        "stem_norm",
        "stage1, 2 blocks",
        "stage2, 1 block",
        "final_norm",
        "head",
        "total",
    ]
    assert [row[1:] for row in rows[1:3]] == [["2", "9"], ["4", "18"]]
    assert rows[-1][1:] == ["14", "63"]


def test_conclusion_tells_the_figures_and_where_they_come_from():
    figures = {"loss": 0.25, "top1": 0.9, "top5": 1.0, "examples": 1234}
    result = {"checkpoint_step": 400, "validation": figures, "test": None, "seconds": 61.0}
    assert metrics_logger.conclusion(result, "/runs/a").splitlines() == [
        "split       loss     top-1    top-5  examples",
        "----------  ------  ------  -------  --------",
        "validation  0.2500  90.00%  100.00%     1,234",
        "",
        "Checkpoint of step 400, the best on validation. 1 min 01 s of training. /runs/a",
    ]


def test_conclusion_of_a_run_that_never_saved():
    result = {"checkpoint_step": None, "validation": None, "test": None, "seconds": 1.0}
    assert metrics_logger.conclusion(result, "/runs/a") == "No checkpoint yet. 1.0 s of training. /runs/a"
