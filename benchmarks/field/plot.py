"""The figures as one picture (PNG): ratios over the bare HTTP loop, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.field.figures import BY_KEY, Figures

#: What is shown, in order.
SHOWN: Final = ("publish", "bulk", "consume", "results", "slow_rate", "latency")
COLOURS: Final = {
    "http": "#9aa5b1",
    "boto3": "#5b6b7b",
    "cloudq": "#0b7285",
    "celery": "#7cb342",
    "dramatiq": "#c05621",
    "taskiq": "#8e44ad",
}


def draw(figures: Figures, path: Path) -> None:
    """Write the picture, if anything that it shows was measured. Raises ImportError without matplotlib."""
    shown = [each for each in SHOWN if any(figures.best(key, each) for key in figures.values)]
    if not shown:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(3.6 * across, 2.4 * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, key in zip(axes.flat, shown, strict=False):
        measure = BY_KEY[key]
        found = [(name, figures.best(name, key)) for name in figures.values]
        bars = [(name, value) for name, value in found if value is not None]
        titles = [figures.about["contestants"][name]["title"] for name, _ in bars]
        heights = [value for _, value in bars]
        drawn = axis.barh(titles, heights, color=[COLOURS[name] for name, _ in bars])
        axis.bar_label(drawn, [f"{value:,.{measure.digits}f}" for value in heights], padding=2, fontsize=7)
        axis.set_xscale("log")
        axis.set_xlim(min(heights) * 0.5, max(heights) * 5)
        axis.invert_yaxis()
        axis.set_title(
            f"{measure.title}\n{measure.unit}, {'less' if measure.least else 'more'} is better", fontsize=8
        )
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
