"""What Prometheus reads at /metrics, of the figures that it is handed; `families.py` says which metric shows which.

Three things make Prometheus refuse or misread a page, and are seen to here: two series with the same labels (what
miners and pools say is cleaned, and what is alike then is put together), a label that has ever more values, and a
counter that goes back, which counts as a restart from nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import accumulate
from time import monotonic
from typing import Any

import gevent
from gevent.lock import RLock
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from karoo.readers import paced
from karoo.web.families import COUNTER, FAMILIES, HISTOGRAM, OTHER, Family, Labels

CACHE_SECONDS = 1.0
AT_ONCE = 50  # samples written between two pauses: half a millisecond
LONGEST = 80  # characters of a label's value
MOST_REASONS = 100  # values of a label that a peer's words may be in; further ones count as OTHER
WORKER_COUNTERS = ("accepted", "rejected", "difficulty_accepted")
_HASHED = re.compile(r"~[0-9a-f]{8}$")

Figures = Callable[[], dict[str, Any]]
WorkerFigures = Callable[[int], tuple[list[dict[str, Any]], "dict[str, Any] | None"]]


def label(text: str) -> str:
    """A text as the value of a label: no half surrogates or control characters, no more than LONGEST characters, and
    never empty, as that would be no label."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST - 1]}…"
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    return text.strip() or "none"


def worker_label(name: str) -> str:
    """A worker's name as the value of a label. A name that cannot stand as it is gets a hash of it at its end, so that
    two of them stay apart, and none is taken for the rest."""
    clean = label(name)
    if clean == name and name != OTHER and not _HASHED.search(name):
        return name
    return f"{clean[:LONGEST - 9]}~{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


class Rest:
    """A counter of what workers do while they have no series of their own. Who has one changes, so it adds up what was
    done between two looks; the bare sum of the others would fall when one of them gets a name."""

    def __init__(self) -> None:
        self._named: dict[str, float] | None = None
        self._total = self._count = 0.0

    def look(self, named: dict[str, float], others: float) -> float:
        """The counter, after what the named workers and all others did up to now."""
        total = sum(named.values()) + others
        if self._named is None:
            self._count = others
        else:
            by_name = sum(count - self._named[name] for name, count in named.items() if name in self._named)
            self._count += max(0.0, total - self._total - by_name)
        self._named, self._total = named, total
        return self._count


class _Paced(list[Sample]):
    """Samples, with pauses for everybody else while they are written."""

    def __iter__(self) -> Iterator[Sample]:
        return paced(super().__iter__(), AT_ONCE)


class KarooCollector(Collector):
    """All metrics of families.py, from figures that are asked for once each time."""

    def __init__(self, figures: Figures, worker_figures: WorkerFigures, max_workers: int) -> None:
        self._figures, self._worker_figures, self._max_workers = figures, worker_figures, max_workers
        self._rest = {key: Rest() for key in WORKER_COUNTERS}
        self._reasons: dict[str, set[Labels]] = {}
        self._last: dict[str, dict[Labels, Any]] = {}

    def collect(self) -> Iterator[Metric]:
        """Each metric, with pauses between."""
        figures = self._figures()
        ledger = figures["ledger"]
        # Before the ledger is read, what is about to jump to its count of before the restart is not shown.
        known = ledger["database"] is None or bool(ledger["fault"]) or ledger.get("restored", True)
        figures = {**figures, "workers": self._workers() if known else []}
        for family in paced(FAMILIES, 8):
            yield _metric(family, self._series(family, figures) if known or not family.kept else {})

    def _workers(self) -> list[dict[str, Any]]:
        """The figures of each worker that has a name here, and of the rest as OTHER."""
        found, others = self._worker_figures(self._max_workers)
        workers = [{**one, "worker": worker_label(one["worker"])} for one in found]
        counters = {key: rest.look({one["worker"]: one[key] for one in workers}, others[key] if others else 0)
                    for key, rest in self._rest.items()}
        return workers if others is None else [*workers, {**others, **counters, "worker": OTHER}]

    def _series(self, family: Family, figures: dict[str, Any]) -> dict[Labels, Any]:
        """The values of a metric by their labels."""
        found: dict[Labels, Any] = {}
        for texts, value in family.read(figures):
            if value is not None:
                labels = self._bounded(family, tuple([label(text) for text in texts]))
                found[labels] = family.merge(found[labels], value) if labels in found else value
        if family.kind == COUNTER:  # sums of fractions depend on their order in the last digit, and so might fall by it
            last = self._last.get(family.name, {})
            found = {labels: max(value, last.get(labels, value)) for labels, value in found.items()}
            self._last[family.name] = found
        return found

    def _bounded(self, family: Family, labels: Labels) -> Labels:
        """These labels, or OTHER as their last where it is one of too many reasons. Who came first stays, so that no
        count moves from one to the other."""
        if family.labels[-1:] not in (("reason",), ("outcome",)):
            return labels
        known = self._reasons.setdefault(family.name, set())
        if labels not in known and len(known) >= MOST_REASONS:
            return (*labels[:-1], OTHER)
        known.add(labels)
        return labels


def _metric(family: Family, series: dict[Labels, Any]) -> Metric:
    metric = Metric(family.name.removesuffix("_total").removesuffix("_info"), family.help, family.kind)
    metric.samples = _Paced()
    for values, value in series.items():
        labels = dict(zip(family.labels, values, strict=True))
        if family.kind == HISTOGRAM:
            metric.samples += _histogram(family.name, labels, value)
        else:
            metric.samples.append(Sample(family.name, labels, value))
    return metric


def _histogram(name: str, labels: dict[str, str], value: dict[str, Any]) -> Iterator[Sample]:
    bounds, counts = [*value["bounds"], float("inf")], list(accumulate(value["counts"]))
    for bound, count in zip(bounds, counts, strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": floatToGoString(bound)}, count)
    yield Sample(f"{name}_count", labels, counts[-1])
    yield Sample(f"{name}_sum", labels, value["sum"])


class _ProcessFigures(Collector):
    """What the system knows of the process. Counting 10,000 open files takes 6 to 20 ms: that is for a thread."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def collect(self) -> Iterable[Metric]:
        found: Iterable[Metric] = gevent.get_hub().threadpool.apply(self._collector.collect)
        return found


class Exposition:
    """The answer of /metrics, made once a second at most. `figures` and `worker_figures` give what the collector reads:
    the state of the proxy, and the strongest so many workers with the sum of the others (None without any)."""

    def __init__(self, figures: Figures, worker_figures: WorkerFigures, max_workers: int) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(KarooCollector(figures, worker_figures, max_workers))
        self._registry.register(_ProcessFigures())
        PlatformCollector(self._registry)
        GCCollector(self._registry)
        self._lock = RLock()
        self._pages: dict[str, tuple[float, bytes]] = {}  # by content type: when (monotonic seconds) and what

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who accepts it (the header of the request), else Prometheus's
        own format."""
        asked = [part.partition(";")[0].strip() for part in accept.split(",")]
        write, kind = ((generate_openmetrics, CONTENT_TYPE_OPENMETRICS) if "application/openmetrics-text" in asked
                       else (generate_latest, CONTENT_TYPE_PLAIN_0_0_4))
        with self._lock:  # who asks meanwhile waits for the same page
            built_at, page = self._pages.get(kind, (float("-inf"), b""))
            now = monotonic()
            if now - built_at > CACHE_SECONDS:
                page = write(self._registry)
                self._pages[kind] = now, page
            return page, kind
