"""Draws docs/pictures/layout.svg: one crystal and one text, from file to checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH, ROW, BOX, GAP = 940, 92, 58, 14
FONT = "font-family='system-ui, sans-serif'"
COLORS = {
    "crystal": ("#e8f1fb", "#3465a4"),
    "text": ("#fdf0e4", "#c4642a"),
    "both": ("#eef5ee", "#3f8049"),
    "run": ("#f1eff7", "#6b5b95"),
}

# Rows of boxes: (kind, x, width, package, what happens there).
LEFT, RIGHT, WIDE = (20, 440), (480, 440), (20, 900)
ROWS = [
    [
        ("crystal", *LEFT, "crystals/", "CIF or arrays → Crystal: lattice, elements, positions"),
        ("text", *RIGHT, "text/", "description → sentences, formulas found"),
    ],
    [("both", *WIDE, "datasets/", "rows → checked records in array_record files under data/")],
    [
        (
            "crystal",
            *LEFT,
            "input_pipeline/ + crystals/graph",
            "views: displaced, strained → CrystalGraph",
        ),
        ("text", *RIGHT, "input_pipeline/ + text/", "views: sentences dropped → tokens"),
    ],
    [
        (
            "both",
            *WIDE,
            "input_pipeline/",
            "order of the epoch; views packed into a Batch, few shapes",
        )
    ],
    [
        ("crystal", *LEFT, "models/graph/", "PaiNN, CGCNN, ORB → one vector per crystal"),
        ("text", *RIGHT, "models/text/", "BERT, OPT, GPT-2, Gemma → one vector per text"),
    ],
    [("both", *WIDE, "models/heads, training/losses", "projections → scores of all pairs → loss")],
    [("run", *WIDE, "training/", "gradients → optimizer update → TrainState, on all devices")],
    [
        ("run", 20, 290, "checkpoint/", "state and position → Orbax"),
        ("run", 325, 290, "tasks/", "validation: Recall@k"),
        ("run", 630, 290, "reporting/", "metrics.jsonl, report.png"),
    ],
]


def svg() -> str:
    """The picture as SVG text."""
    height = ROW * len(ROWS) + 10
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' "
        "aria-label='The way of one crystal and one text through the packages'>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
        "markerHeight='7' orient='auto'><path d='M0 0 8 4 0 8z' fill='#777'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{height}' rx='6' fill='#ffffff'/>",
    ]
    for number, row in enumerate(ROWS):
        top = 14 + ROW * number
        for kind, x, width, package, what in row:
            fill, edge = COLORS[kind]
            parts.append(
                f"<rect x='{x}' y='{top}' width='{width}' height='{BOX}' rx='6' fill='{fill}' "
                f"stroke='{edge}'/>"
                f"<text x='{x + GAP}' y='{top + 24}' {FONT} font-size='15' font-weight='600' "
                f"fill='{edge}'>{package}</text>"
                f"<text x='{x + GAP}' y='{top + 45}' {FONT} font-size='14' fill='#222'>"
                f"{what}</text>"
            )
        if number + 1 < len(ROWS):
            parts += [_arrow(x, top + BOX, top + ROW) for x in _between(row, ROWS[number + 1])]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _between(row: list, below: list) -> list[float]:
    """Where arrows start: below each box of the row that has more of them."""
    boxes = max(row, below, key=len)
    return [x + width / 2 for _, x, width, _, _ in boxes]


def _arrow(x: float, start: float, end: float) -> str:
    return (
        f"<line x1='{x}' y1='{start + 3}' x2='{x}' y2='{end - 3}' stroke='#777' stroke-width='1.5' "
        "marker-end='url(#tip)'/>"
    )


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "pictures" / "layout.svg", help="the file"
    )
    parser.parse_args().output.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
