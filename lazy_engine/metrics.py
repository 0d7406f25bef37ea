# SPDX-License-Identifier: Apache-2.0
"""Numbers for Prometheus; needs the extra ``metrics`` (or ``http``, which has it).

Two kinds. What *this process* did is counted as it happens, and costs next to
nothing. What waits in *the store* is asked for when somebody looks, which
reads an index over all open delays: the answer is kept for
:data:`KEPT_SECONDS` at least, and for so long that asking takes no more than
:data:`SHARE` of the time. So no scraper, however eager, loads the store.

Labels are bounded: task names come from flows, so only :data:`MOST_TASKS` of
them stand by themselves; the rest are ``other``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lazy_engine import errors, ledger
from lazy_engine.client import Client
from lazy_engine.ledger import record as r
from lazy_engine.observer import Absorbed, Begun, Delivered, Observer, WatchedRun
from lazy_engine.terms import Fired
from lazy_engine.token import mask

try:
    import prometheus_client as prometheus
    from prometheus_client import core, exposition, registry
except ImportError as error:
    raise ImportError(
        "lazy_engine.metrics needs prometheus_client: pip install 'lazy_engine[metrics]'",
        name=error.name,
    ) from error

LOG = logging.getLogger(__name__)

#: How many tasks are counted by themselves.
MOST_TASKS: Final = 50
OTHER: Final = "other"

#: Where one class of ages ends and the next begins, and what they are called.
AGES: Final = {"<1m": 60.0, "<10m": 600.0, "<1h": 3600.0, "<1d": 86400.0, "<7d": 604800.0}
OLDER: Final = ">=7d"

#: How long an answer about the store is kept at least.
KEPT_SECONDS: Final = 10.0
#: How much of the time asking may take.
SHARE: Final = 0.005

_PARK_BUCKETS: Final = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
_WAKE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)
_RUN_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class Metrics(Observer):
    """Counts what happens in a store, and says how much waits there.

    :param client: of the store.
    :param most_tasks: how many task names become labels.
    """

    def __init__(self, client: Client, *, most_tasks: int = MOST_TASKS) -> None:
        self._registry = made = prometheus.CollectorRegistry()
        self._tasks = _Names(most_tasks)
        self._deliveries = prometheus.Counter(
            "lazy_engine_deliveries",
            "Outcomes handed in here, by what became of them",
            ["disposition"],
            registry=made,
        )
        self._refusals = prometheus.Counter(
            "lazy_engine_deliveries_refused",
            "Deliveries refused here, by the error; nothing was recorded",
            ["error"],
            registry=made,
        )
        self._timers = prometheus.Counter(
            "lazy_engine_timers_fired",
            "Timers of delays that were due, by what came of it: timeout, default, alert or probe",
            ["effect"],
            registry=made,
        )
        self._opened = prometheus.Counter(
            "lazy_engine_delays_opened", "Delays opened here", ["task"], registry=made
        )
        self._park_seconds = prometheus.Histogram(
            "lazy_engine_park_seconds",
            "From the opening of a delay to the arrival of its outcome",
            ["task"],
            registry=made,
            buckets=_PARK_BUCKETS,
        )
        self._wake_seconds = prometheus.Histogram(
            "lazy_engine_wake_to_resume_seconds",
            "From the arrival of an outcome until its task had it",
            registry=made,
            buckets=_WAKE_BUCKETS,
        )
        self._run_seconds = prometheus.Histogram(
            "lazy_engine_run_seconds",
            "Runs of flows, from taking one to giving it up, by the state it was left in",
            ["state"],
            registry=made,
            buckets=_RUN_BUCKETS,
        )
        self._incidents = prometheus.Counter(
            "lazy_engine_incidents_noted",
            "How often a flow could not be run here, by kind",
            ["kind"],
            registry=made,
        )
        made.register(_Store(client, most_tasks))
        client.observe(self)

    def render(self, accept: str | None = None) -> tuple[str, bytes]:
        """Return all of it as text, and its content type.

        :param accept: the ``Accept`` header of whoever asks.
        """
        encode, content_type = exposition.choose_encoder(accept or "")
        return content_type, encode(self._registry)

    @contextlib.contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Answer ``/metrics`` at an address of this machine; whoever reaches it may read.

        :param port: 0 takes a free one.
        :returns: (as a context manager) the port.
        :raises OSError: the address cannot be listened at.
        """
        server, thread = prometheus.start_http_server(port, host, self._registry)
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    # -- what happens -----------------------------------------------------

    def delivered(self, delivered: Delivered) -> None:
        self._deliveries.labels(delivered.receipt.disposition.value).inc()

    def refused(self, error: Exception) -> None:
        self._refusals.labels(type(error).__name__).inc()

    def fired(self, fired: Iterable[Fired]) -> None:
        for done in fired:
            self._timers.labels(_effect(done)).inc()

    def had_incident(self, kind: str) -> None:
        self._incidents.labels(kind).inc()

    def run(self, begun: Begun) -> WatchedRun:
        return _Run(self)

    def count_commit(self, opened: Sequence[r.DelayOpening], absorbed: Sequence[Absorbed]) -> None:
        """Count what a commit of a run did."""
        for opening in opened:
            self._opened.labels(self._tasks.label(opening.task_name)).inc()
        for each in absorbed:
            self._wake_seconds.observe(each.wake_seconds)
            if each.parked_seconds is not None:
                label = self._tasks.label(each.record.task_name)
                self._park_seconds.labels(label).observe(each.parked_seconds)

    def count_run(self, state: str, seconds: float) -> None:
        """Count a run that is over."""
        self._run_seconds.labels(state).observe(seconds)


class _Run(WatchedRun):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._began = time.perf_counter()

    def committed(self, opened: Sequence[r.DelayOpening], absorbed: Sequence[Absorbed]) -> None:
        self._metrics.count_commit(opened, absorbed)

    def end(self, state: str | None) -> None:
        self._metrics.count_run(state or "given up", time.perf_counter() - self._began)


def _effect(fired: Fired) -> str:
    if fired.wants_probe:
        return "probe"
    if fired.is_alert:
        return "alert"
    outcome = fired.record.outcome
    return "timeout" if outcome is None else outcome.kind


class _Names:
    """Lets so many names become labels, for good: a label that came and went would count anew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def label(self, name: str) -> str:
        name = mask(name)
        with self._lock:
            if name not in self._known and len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
            return name


class _Store(registry.Collector):
    """Says how much waits, as of a short while ago."""

    def __init__(self, client: Client, most_tasks: int) -> None:
        self._ledger = ledger.beside(client.backend)
        self._most_tasks = most_tasks
        self._lock = threading.Lock()
        self._census: r.Census | None = None
        self._taken_seconds = 0.0
        self._took_seconds = 0.0
        self._is_up = True
        self._next_seconds = float("-inf")

    def describe(self) -> list[core.Metric]:
        return []  # otherwise registering it would ask the store

    def collect(self) -> Iterator[core.Metric]:
        # Whoever comes while another asks gets what was known before.
        if self._lock.acquire(blocking=self._census is None):
            try:
                if time.monotonic() >= self._next_seconds:
                    self._ask()
            finally:
                self._lock.release()
        yield core.GaugeMetricFamily(
            "lazy_engine_store_up", "Whether the store answered last", value=int(self._is_up)
        )
        census = self._census
        if census is not None and self._is_up:
            yield from self._families(census)

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            self._census = self._ledger.census(list(AGES.values()), self._most_tasks)
        except errors.LazyEngineError as error:
            LOG.warning("what waits could not be counted: %s", error)
            self._is_up = False
        else:
            self._is_up = True
        self._taken_seconds = time.monotonic()
        self._took_seconds = self._taken_seconds - began
        pause = max(KEPT_SECONDS, self._took_seconds / SHARE) if self._is_up else KEPT_SECONDS
        self._next_seconds = self._taken_seconds + pause

    def _families(self, census: r.Census) -> Iterator[core.Metric]:
        open_delays = core.GaugeMetricFamily(
            "lazy_engine_open_delays", "Delays that wait, by task and age", labels=["task", "age"]
        )
        oldest = core.GaugeMetricFamily(
            "lazy_engine_oldest_delay_seconds",
            "Age of the delay of that task that has waited longest",
            labels=["task"],
        )
        since_seconds = time.monotonic() - self._taken_seconds
        # What has the same label is one: a task may well be called "other".
        numbers: Counter[tuple[str, str]] = Counter()
        seconds: dict[str, float] = {}
        for each in census.open:
            name = OTHER if each.task_name is None else mask(each.task_name)
            for age, number in zip((*AGES, OLDER), each.by_age, strict=True):
                numbers[name, age] += number
            waited = (census.now - each.oldest_at) / 1e6 + since_seconds
            seconds[name] = max(waited, seconds.get(name, 0.0))
        for labels, number in numbers.items():
            open_delays.add_metric(labels, number)
        for name, waited in seconds.items():
            oldest.add_metric([name], waited)
        yield open_delays
        yield oldest
        waited = 0.0
        if census.answered_at is not None:
            waited = max(0.0, (census.now - census.answered_at) / 1e6) + since_seconds
        for what, words, value in (
            (
                "answered_flows",
                "Flows that were answered, and that nobody has resumed",
                census.answered,
            ),
            (
                "oldest_answer_seconds",
                "For how long the first of these answers has waited for its flow; 0 without any",
                waited,
            ),
            ("incidents", "Flows that could not be run, as they stand now", census.incidents),
            (
                "watchdog_lag_seconds",
                "How long ago that was due which no watchdog has seen to yet",
                census.lag_seconds,
            ),
            ("census_seconds", "How long counting what waits took", self._took_seconds),
            ("census_age_seconds", "How long ago what waits was counted", since_seconds),
        ):
            yield core.GaugeMetricFamily(f"lazy_engine_{what}", words, value=value)
