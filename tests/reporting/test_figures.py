import numpy as np

from clac_jax.reporting.figures import write_property_report, write_report


def test_a_report_is_drawn_of_the_rows_that_are_there(tmp_path):
    some = [{"split": "val", "step": 8}, {"split": "train", "step": 1, "loss": "x", "epoch": 0}]
    test = {"split": "test", "step": 8, "pool_size": 4} | {
        f"{direction}_top{k}{suffix}": 0.5
        for direction in ("text_to_crystal", "crystal_to_text")
        for k in (1, 3, 10)
        for suffix in ("", "_no_formula")
    }
    write_report(tmp_path / "report.png", [*some, test], np.zeros((4, 4)))
    numbers = np.arange(4.0)
    write_property_report(
        tmp_path / "property.png", some, name="band gap", predicted=numbers, labels=numbers
    )
    assert {path.name for path in tmp_path.iterdir()} == {"report.png", "property.png"}
