"""Figures: what a benchmark measured, what it must reach, and the table that both go into."""

import dataclasses
import json
import os
import statistics
from pathlib import Path


@dataclasses.dataclass
class Figure:
    """The values of one figure over the rounds of a run."""

    values: list[float]
    unit: str = ""
    digits: int = 0

    @property
    def median(self):
        return statistics.median(self.values)

    def __str__(self):
        def number(value):
            return f"{value:,.{self.digits}f}"

        text = f"{number(self.median)} {self.unit}".strip()
        if len(self.values) > 1:
            text += f" ({number(min(self.values))}–{number(max(self.values))})"
        return text


def ratio(ours, theirs):
    """Ours over theirs, round by round: the two of a round were measured one after the other."""
    return Figure([a / b for a, b in zip(ours.values, theirs.values, strict=True)], "×", 2)


@dataclasses.dataclass
class Line:
    """A line of the table."""

    benchmark: str
    what: str
    figure: Figure
    # What the median must reach, in words, and whether it does; None: only told.
    goal: str = ""
    reached: bool | None = None

    def cells(self):
        verdict = {None: "", True: "reached", False: "**missed**"}[self.reached]
        return [self.benchmark, self.what, str(self.figure), self.goal, verdict]


class Report:
    """Collects lines, and shows each as soon as it is there."""

    def __init__(self):
        self.lines = []

    def tell(self, benchmark, what, figure):
        self._add(Line(benchmark, what, figure))

    def at_least(self, benchmark, what, figure, goal):
        self._add(Line(benchmark, what, figure, f"≥ {goal:g}", figure.median >= goal))

    def at_most(self, benchmark, what, figure, goal):
        self._add(Line(benchmark, what, figure, f"≤ {goal:g}", figure.median <= goal))

    def below(self, benchmark, what, figure, other, name):
        """Below the same figure of somebody else."""
        self._add(Line(benchmark, what, figure, f"< {name}: {other}", figure.median < other.median))

    def _add(self, line):
        self.lines.append(line)
        print("  ".join(filter(None, line.cells())), flush=True)

    @property
    def missed(self):
        return [line for line in self.lines if line.reached is False]

    def write(self, directory, name, about):
        """The table, as Markdown for people and as JSON for programs."""
        rows = [["benchmark", "figure", "median (range)", "goal", ""], ["---"] * 5]
        rows += [line.cells() for line in self.lines]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.md").write_text(f"{about}\n\n{table}\n")
        plain = [dataclasses.asdict(line) for line in self.lines]
        (directory / f"{name}.json").write_text(json.dumps({"about": about, "lines": plain}, indent=1) + "\n")
        print(f"\n{about}\n\n{table}", flush=True)


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def machine():
    return f"{os.cpu_count()} cores ({processor()}), Linux {os.uname().release}"
