"""Does a worker's memory grow? Its resident megabytes while it runs very many tasks."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.field import process
from benchmarks.field.contestants.roster import Contestant
from benchmarks.field.figures import Figures
from benchmarks.field.ground import Ground

#: Looks at the memory, evenly spread over the tasks.
LOOKS = 10
#: Seconds that a tenth of the tasks may take.
LIMIT = 300.0


def measure(
    ground: Ground, contestant: Contestant, tasks: int, figures: Figures, say: Callable[[str], None]
) -> None:
    """Fill the queue and let it be emptied, ``LOOKS`` times; one value in ``soak`` for each."""
    queue = ground.new_queue(contestant)
    part = max(10, tasks // LOOKS)
    with ground.publisher(contestant, queue) as publisher, ground.worker(contestant, queue) as worker:
        for number in range(1, LOOKS + 1):
            publisher.do("bulk", count=part)
            ground.until_deleted(contestant, queue, part * number, LIMIT)
            rss = process.memory(process.tree(worker))["rss"]
            figures.add(contestant.key, "soak", rss)
            say(f"{contestant.title}: {rss:.1f} MB after {part * number:,} tasks")
    figures.about["soak_tasks"] = part * LOOKS
