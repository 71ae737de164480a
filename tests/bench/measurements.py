"""Parts of side-by-side measurements: rounds by contender, medians, ratios against their targets, and the machine."""

import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

OURS = "gridcast"
CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """A target: our figure, divided by that of `to` if there is one, is at most (or at least) `figure`."""

    limit: float
    relative_to: str = ""
    is_minimum: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.is_minimum else value <= self.limit

    def __str__(self) -> str:
        return (
            f"{'>=' if self.is_minimum else '<='} {self.limit:g}{f' x {self.relative_to}' if self.relative_to else ''}"
        )


@dataclass
class Measurement:
    """Rounds of one measurement by contender, and the targets for our median."""

    name: str
    unit: str
    targets: Sequence[Target] = ()
    rounds: dict[str, list[float]] = field(default_factory=dict)
    paired: bool = False
    """Whether the figures of a round are compared with each other, before the median is taken."""

    def add(self, contender: str, value: float) -> None:
        self.rounds.setdefault(contender, []).append(value)

    def median(self, contender: str) -> float:
        return statistics.median(self.rounds[contender])

    def round_ratios(self, contender: str, to: str) -> list[float]:
        """The ratio of the two contenders' figures in each round, in ascending order."""
        return sorted(ours / theirs for ours, theirs in zip(self.rounds[contender], self.rounds[to], strict=True))

    def ratio(self, contender: str) -> float:
        """The ratio of our median to theirs, or the median ratio where rounds are paired; for `""`, our median."""
        if contender and self.paired:
            return statistics.median(self.round_ratios(OURS, contender))
        return self.median(OURS) / self.median(contender) if contender else self.median(OURS)

    def evaluate(self) -> Iterator[tuple[Target, float, bool]]:
        """Each target, our figure for it, and whether the figure meets it."""
        for bound in self.targets:
            figure = self.ratio(bound.relative_to)
            yield bound, figure, bound.is_met(figure)

    @property
    def all_targets_met(self) -> bool:
        return all(kept for _, _, kept in self.evaluate())


def format_table(measurements: Sequence[Measurement], contenders: Sequence[str]) -> Iterator[str]:
    """A line for each measurement: medians of all contenders, our ratio to each of the others, and the target."""
    width = max(len(figures.name) for figures in measurements)
    others = [who for who in contenders if who != OURS]
    head = "".join(f"{who:>13}" for who in contenders) + "".join(f"{f'/{who}':>13}" for who in others)
    yield f"{'median of rounds':{width}}  {'unit':10}{head}  wanted"
    for figures in measurements:
        medians = "".join(
            f"{figures.median(who):13.2f}" if who in figures.rounds else f"{'-':>13}" for who in contenders
        )
        ratios = "".join(f"{figures.ratio(who):13.2f}" if who in figures.rounds else f"{'-':>13}" for who in others)
        wanted = ", ".join(f"{bound} {'holds' if kept else 'MISSED'}" for bound, _, kept in figures.evaluate())
        yield f"{figures.name:{width}}  {figures.unit:10}{medians}{ratios}  {wanted or '-'}"


def missing_programs(names: Sequence[str]) -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in names if not shutil.which(name)]


def describe_machine(*tools: Sequence[str]) -> Iterator[str]:
    """Describe the machine. `tools` are commands that print a version."""
    cpus = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
    versions = [f"Python {platform.python_version()}", f"uvicorn {version('uvicorn')}"]
    for tool in tools:
        said = subprocess.run(tool, capture_output=True, text=True, check=False)
        found = re.search(r"\d+(?:\.\d+)+", said.stdout + said.stderr)
        versions.append(f"{tool[0]} {found[0] if found else 'unknown'}")
    yield ", ".join(versions)
