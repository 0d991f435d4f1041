import json
from pathlib import Path

from PIL import Image

from models.bundle.calibration import Certificate
from training.evaluation import report
from training.evaluation.evaluate import ConfidenceResult, ExitResult, FallShare, Report
from training.evaluation.replay import PolicyResult

EXITS = [
    ExitResult(
        exit=exit,
        macs=macs,
        macs_all_heads=all_heads,
        top1=top1,
        top5=0.98761,
        agreement=agreement,
        budget_exit=1,
        ensemble_top1=0.75,
        ensemble_top5=1.0,
        uncalibrated=ConfidenceResult(ece=0.0411, auroc=0.81, reliability=[(0.9, 0.6, 5)]),
        calibrated=ConfidenceResult(
            ece=0.0123, auroc=auroc, reliability=[(0.4, 0.5, 1), (0.9, 0.75, 4)]
        ),
    )
    for exit, macs, all_heads, top1, agreement, auroc in [
        (1, 15_000_000, 15_000_000, 0.7, 0.83, 0.82345),
        (2, 60_000_000, 65_000_000, 0.8, 1.0, None),
    ]
]
FAST = PolicyResult(
    accuracy=0.791,
    agreement=0.9512,
    mean_macs=21_250_000.0,
    exit_shares=[0.861, 0.139],
    stop_reasons={"confident": 5},
)
REPORT = Report(
    model="cifar",
    version=3,
    data="cifar100",
    split="test",
    num_rows=5,
    judged_by="labels",
    points_judged_by="labels",
    exits=EXITS,
    falls=[FallShare(more_than=0.01, share=0.66), FallShare(more_than=0.5, share=0.25)],
    operating_points={"fast": FAST, "certified": FAST},
    certificates={
        "certified": Certificate(max_accuracy_drop=0.02, holds_with_probability=0.9, num_rows=9)
    },
    curve_thresholds=[0.5],
    curve=[FAST],
)


def test_a_report_says_where_thresholds_are_of_the_margin() -> None:
    assert "margin" not in report.markdown(REPORT)
    by_margin = report.markdown(REPORT.model_copy(update={"confidence": "margin"}))
    assert "Rows stop early by the margin between the two largest probabilities" in by_margin


def test_the_tables_hold_the_reports_numbers() -> None:
    lines = report.markdown(REPORT).splitlines()
    assert lines[0] == "# cifar version 3 on cifar100, test split"
    assert lines[2].startswith("5 rows, ")
    assert (
        "| 1 | 15.00 | 15.00 | 70.00 | 98.76 | 83.00 | 1 | 70.00 | 98.76 | 75.00 | 100.00 |"
        in lines
    )
    assert (
        "| 2 | 60.00 | 65.00 | 80.00 | 98.76 | 100.00 | 1 | 70.00 | 98.76 | 75.00 | 100.00 |"
        in lines
    )
    assert "| 1 | 4.11 | 1.23 | 81.00 | 82.34 |" in lines
    assert "| 2 | 4.11 | 1.23 | 81.00 | - |" in lines
    assert "| true-class probability falls by more than | 0.01 | 0.5 |" in lines
    assert "| share of rows % | 66.00 | 25.00 |" in lines
    assert "| fast | 79.10 | 0.90 | - | 4.88 | - | 21.25 | 35 | 86.1 13.9 |" in lines
    assert "| certified | 79.10 | 0.90 | 2.00 | 4.88 | - | 21.25 | 35 | 86.1 13.9 |" in lines


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    tables = report.markdown(REPORT).split("\n\n")[2:]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_a_written_report_reads_back(tmp_path: Path) -> None:
    report.write(REPORT, tmp_path / "new")
    text = (tmp_path / "new" / "report.json").read_text()
    assert Report.model_validate_json(text) == REPORT
    assert json.loads(text)["operating_points"]["fast"]["exit_shares"] == [0.861, 0.139]
    assert (tmp_path / "new" / "report.md").read_text() == report.markdown(REPORT)
    with Image.open(tmp_path / "new" / "curves.png") as plot:
        assert plot.size == (1540, 880)
