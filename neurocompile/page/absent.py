"""What was not measured is said where it is missing, and of what the rest was measured."""

from __future__ import annotations

from neurocompile.page.markup import Html, paragraph, quantity
from neurocompile.verification.report import Report


def absent(report: Report, what: str, *keys: str) -> Html:
    """Return that `what` was not measured, and why if the report says so under names that begin so."""
    reasons = dict.fromkeys(
        reason for name, reason in report.not_measured.items() if _is_one(name, keys)
    )
    told = f"Not measured: {what}" + (f" ({'; '.join(reasons)})." if reasons else ".")
    return paragraph(told, class_="absent")


def unexamined(report: Report, what: str, *keys: str) -> Html:
    """Return that `what` was not measured; that no samples were examined is a reason, too."""
    known = (*keys, "examination")
    if report.examination is None and not any(_is_one(name, known) for name in report.not_measured):
        return absent(report, f"{what}; no samples were examined closely")
    return absent(report, what, *known)


def examined_pair(report: Report) -> tuple[str, str]:
    """Return the stages that the closer look compared."""
    found = report.examination
    return (found.reference, found.candidate) if found else ("float", "fixedpoint")


def examined(report: Report) -> str:
    """Return what was compared and on how many samples, to stand in a caption."""
    first, second = examined_pair(report)
    return f"{first} / {second}, {on_samples(report)}"


def on_samples(report: Report, count: int = 0) -> str:
    """Return on how many examined samples (`count`, or all of them) something was measured."""
    number = count or (len(report.examination.samples) if report.examination else 0)
    return f"on {quantity(number)} examined {'sample' if number == 1 else 'samples'}"


def _is_one(name: str, keys: tuple[str, ...]) -> bool:
    """Return whether `name` is one of `keys`, or one of them with what it is of."""
    return any(name == key or name.startswith((f"{key} ", f"{key}:")) for key in keys)
