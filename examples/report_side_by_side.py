"""
Give one trained network 8, 5 and 3 bits, verify each, and put the three side by side in one page.

    neurocompile train --preset digits -o runs/digits
    python examples/report_side_by_side.py runs/digits FOLDER

FOLDER then holds a program and a page for each, and comparison.html. On the command line:

    neurocompile export runs/digits --target fixedpoint --weight-bits 8 -o FOLDER/8-bit
    neurocompile verify FOLDER/8-bit --input digits:test --report FOLDER/8-bit-report
    ... the same with 5 and 3 ...
    neurocompile report FOLDER/8-bit-report FOLDER/5-bit-report FOLDER/3-bit-report -o FOLDER/comparison.html
"""

from __future__ import annotations

import sys
from pathlib import Path

import neurocompile
from neurocompile.page import write_comparison, write_page
from neurocompile.page.entries import entry_of_report
from neurocompile.verification.report import Report

BITS = (8, 5, 3)


def main(run: Path, folder: Path, data: str = "digits:test") -> dict[int, Report]:
    """Return the report for each number of bits."""
    reports = {}
    for bits in BITS:
        with neurocompile.export(
            run, target="fixedpoint", weight_bits=bits, output=folder / f"{bits}-bit"
        ) as program:
            report = neurocompile.verify(program, data=data)
        pair = report.between("float", "fixedpoint")
        print(
            f"{bits} bits: spikes differ at {pair.mismatches / pair.slots:.3%} of places, "
            f"{report.accuracy['fixedpoint']:.2%} right instead of {report.accuracy['float']:.2%}"
        )
        write_page(report, folder / f"{bits}-bit.html")
        reports[bits] = report
    page = folder / "comparison.html"
    write_comparison(
        [entry_of_report(report, f"{bits} bits") for bits, report in reports.items()], page
    )
    print(f"wrote {page}")
    return reports


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python report_side_by_side.py RUN FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
