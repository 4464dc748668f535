"""What is promised of the default policy on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.real.cells import Cell
from benchmarks.real.promises import WINDOW, Promises, windows_away, worst_points
from benchmarks.real.results import Line, behind_best, by_cell, by_widths
from benchmarks.real.testbed import DEFAULT, FIXED, RULES
from orchestrator.loadgen.comparison import mean_of
from orchestrator.profile.margin import CONFIDENCE
from orchestrator.reporting.claim import Claim, Interval

NARROWEST, WIDEST = "always 25 %", "always 100 %"
BEHIND_POINTS = 0.5
GAIN_RATIO = 0.8
LATE_PERCENT = 1.0
WIDE_PERCENT = 2.0
PROMISE_POINTS = 2.0
BURST_RATIO = 0.9
SENDER_LATE_RATIO = 0.1
"""Of the deadline: when senders are later than that, two cores were too few for senders, gateway and servers."""
_FITS_RATIO = 0.99


def draw_claims(lines: Sequence[Line], promises: Sequence[Promises], accuracies: Mapping[str, float]) -> list[Claim]:
    """Return the claims, for a quiet machine and for one with other work, by how often each width is right."""
    claims = []
    lines = by_widths(lines, accuracies)
    for hogs, where in ((0, "on a quiet machine"), (1, "beside a process that takes a core")):
        own = [line for line in lines if line.cell.hogs == hogs]
        lasting = [line for line in own if not line.cell.is_burst]
        steady = [line for line in lasting if line.cell in _kept_up(lasting)]
        claims += [*_behind(lasting, where), *_behind(steady, f"{where}, senders not late")]
        bursts = [line for line in own if line.cell.is_burst]
        claims += [_gain(lasting, where), _late(lasting, where), _wide(lasting, where)]
        claims += [_missed(lasting, "", where), _missed(bursts, " in bursts", where), _bursts(bursts, where)]
    return [*claims, _kept(promises)]


def _kept_up(lines: Sequence[Line]) -> set[Cell]:
    """Return the cells in which the default's requests were sent when due, so that not the senders were measured."""
    return {
        line.cell
        for line in lines
        if line.set_up == DEFAULT and line.sender_late_s <= SENDER_LATE_RATIO * line.cell.deadline_s
    }


def _behind(lines: Sequence[Line], where: str) -> Iterator[Claim]:
    means = [100 * behind for behind in behind_best(lines, DEFAULT, [*FIXED, *RULES])]
    yield _claim(f"top-1 in time behind the best rival of each cell, {where}", means, "points", BEHIND_POINTS)
    near = 100 * sum(mean <= BEHIND_POINTS for mean in means) / len(means) if means else None
    name = f"cells in which it is at most {BEHIND_POINTS} points behind the best rival, {where}"
    yield Claim(name, near, "%", 100.0, is_floor=True)


def _kept(promises: Sequence[Promises]) -> Claim:
    name = f"promises about a server and width kept, away from {100 * CONFIDENCE:g} %"
    points, windows = worst_points(promises), windows_away(promises)
    if not points:
        return Claim(name, None, "points", PROMISE_POINTS)
    near = 100 * sum(value <= PROMISE_POINTS for value in windows) / max(1, len(windows))
    note = f"the worst of {len(points)}; {near:.0f} % of {len(windows)} windows of {WINDOW} groups are within the bar"
    return Claim(name, max(points), "points", PROMISE_POINTS, note=note)


def _gain(lines: Sequence[Line], where: str) -> Claim:
    """Of what full width gains over the narrowest, how much the default has, where full width fits."""
    ratios = []
    for found in by_cell(lines).values():
        if not all(name in found for name in (DEFAULT, NARROWEST, WIDEST)):
            continue
        wide, narrow = found[WIDEST], found[NARROWEST]
        if wide.in_time < _FITS_RATIO or wide.accuracy is None or narrow.accuracy is None:
            continue
        spread = wide.accuracy - narrow.accuracy
        if spread > 0:
            ratios.append((found[DEFAULT].right_in_time - narrow.right_in_time) / spread)
    name = f"gain over always narrowest where full width fits, of the difference in accuracy, {where}"
    return _claim(name, ratios, "", GAIN_RATIO, is_floor=True)


def _late(lines: Sequence[Line], where: str) -> Claim:
    late = _of_cells(lines, lambda line: line.late)
    return _claim(f"requests that were neither answered nor refused within their deadline, {where}", late, "%",
                  LATE_PERCENT)  # fmt: skip


def _missed(lines: Sequence[Line], of: str, where: str) -> Claim:
    missed = _of_cells(lines, lambda line: line.missed)
    return _claim(f"requests{of} that were sent to a server and not answered in time, {where}", missed, "%",
                  LATE_PERCENT)  # fmt: skip


def _wide(lines: Sequence[Line], where: str) -> Claim:
    """Of answers while something had been refused or late within the last second, how many were not the narrowest."""
    own = [line for line in lines if line.set_up == DEFAULT]
    pressed, wide = sum(line.pressed for line in own), sum(line.pressed_wide for line in own)
    name = f"answers wider than the narrowest within a second of a refusal or a late answer, {where}"
    return Claim(name, 100 * wide / pressed if pressed else None, "%", WIDE_PERCENT, note=f"of {pressed} answers")


def _bursts(lines: Sequence[Line], where: str) -> Claim:
    """Of what the narrowest width answers in time of a burst, how much the default does; the least of all bursts."""
    name = f"answers in time of a burst, of those of always narrowest, {where}"
    answered: dict[str, dict[Cell, list[float]]] = {DEFAULT: {}, NARROWEST: {}}
    for line in lines:
        if line.cell.is_burst and line.set_up in answered:
            answered[line.set_up].setdefault(line.cell, []).append(line.in_time)
    own, narrow = answered[DEFAULT], answered[NARROWEST]
    ratios = [sum(own[cell]) / sum(narrow[cell]) for cell in own if sum(narrow.get(cell, ()))]
    note = f"the least of {len(ratios)} sizes of bursts, each the mean of its rounds"
    return Claim(name, min(ratios) if ratios else None, "", BURST_RATIO, is_floor=True, note=note)


def _of_cells(lines: Sequence[Line], value: Callable[[Line], float | None]) -> list[float]:
    """Return a ratio of the default's in percent, of each cell that has it the mean of its rounds."""
    cells: dict[Cell, list[float]] = {}
    for line in lines:
        if line.set_up == DEFAULT and (found := value(line)) is not None:
            cells.setdefault(line.cell, []).append(100 * found)
    return [sum(values) / len(values) for values in cells.values()]


def _claim(name: str, values: Sequence[float], unit: str, bar: float, *, is_floor: bool = False) -> Claim:
    if not values:
        return Claim(name, None, unit, bar, is_floor=is_floor)
    mean = mean_of(values)
    interval = Interval(mean.least, mean.most) if len(values) > 1 else None
    note = f"mean over {len(values)} cells; {'least' if is_floor else 'most'} {(min if is_floor else max)(values):.2f}"
    return Claim(name, mean.value, unit, bar, is_floor=is_floor, interval=interval, note=note)
