"""One line of the table: a number of ours beside the reference."""


def row(name: str, ours: float, reference: float, tolerance: float) -> dict:
    """A row for `run.py`; `tolerance` bounds the relative difference."""
    ours, reference = float(ours), float(reference)
    relative = abs(ours - reference) / abs(reference) if reference else abs(ours)
    return {
        "name": name,
        "ours": ours,
        "reference": reference,
        "relative": relative,
        "tolerance": float(tolerance),
        "ok": bool(relative <= tolerance),  # false for NaN
    }


def printed(name: str, ours: float, text: str) -> dict:
    """A row against a number as it is printed, such as `"-4.3515E+03"`: half a unit of the last digit is allowed."""
    mantissa, _, exponent = text.upper().partition("E")
    decimals = len(mantissa.partition(".")[2])
    half = 0.5 * 10.0 ** (int(exponent or 0) - decimals)
    return row(name, ours, float(text), half / abs(float(text)) * (1.0 + 1e-9))


def worst(rows: list[dict]) -> float:
    """The largest relative difference of some rows; NaN where one of them is."""
    values = [r["relative"] for r in rows]
    return max(values) if all(v == v for v in values) else float("nan")
