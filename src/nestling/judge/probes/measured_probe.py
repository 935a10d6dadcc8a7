"""`make_probe` and `measure_probes`: from a specification and data to figures of a model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from nestling.core.arguments import name_kind
from nestling.core.errors import DataError, NestlingError, SettingError
from nestling.core.imports import import_function
from nestling.judge.contract.clauses import EvaluationProtocol
from nestling.judge.contract.probe_spec import ProbeSpec
from nestling.judge.probes.group_metrics import label_rows, name_groups
from nestling.judge.probes.metric_request import (
    MetricFigure,
    MetricRequest,
    MetricSettings,
    refuse_few,
)
from nestling.judge.probes.metric_table import check_needs, find_metric, read_settings
from nestling.judge.probes.probe_answers import AnsweredRows, AnswersOnce, read_answers
from nestling.judge.probes.probe_data import ProbeData
from nestling.judge.probes.probe_result import (
    Answering,
    Direction,
    Probe,
    ProbePart,
    ProbeResult,
)


def make_probe(
    spec: ProbeSpec, data: ProbeData, protocol: EvaluationProtocol | None = None
) -> Probe:
    """Make a probe: a metric by its name, on data, with groups, slices and least sample sizes.

    The figure is of all rows, or of the slice that the setting `slice` names; every other slice
    and every group is a part of its own. Canaries are a list and no sample: one is enough, unless
    the specification says more.

    Args:
        spec: name, metric, groups, slices, settings.
        data: on which it measures.
        protocol: confidence and least sample size; None for the defaults.

    Raises:
        SettingError: an unknown metric or setting, or one that is missing.
        DataError: data of another digest than the specification's, a column that is not there, a
            slice without rows, or targets that do not fit the metric.

    >>> import torch
    >>> data = ProbeData(torch.eye(2).repeat(20, 1), torch.tensor([0, 1] * 20))
    >>> probe = make_probe(ProbeSpec("skill", metric="accuracy"), data)
    >>> result = probe.measure(lambda x: x)
    >>> result.value, result.is_judged, round(result.low, 3)
    (1.0, True, 0.912)
    """
    protocol = protocol or EvaluationProtocol()
    with _naming(spec.name):
        if spec.digest and spec.digest != data.digest:
            raise DataError(
                f"the data have digest {data.digest[:12]}..., the contract says "
                f"{spec.digest[:12]}...; measure on the data that it names"
            )
        for column in spec.groups:
            data.read_column(column)
        rows = {name: data.find_slice(name, having) for name, having in spec.slices.items()}
        if ":" in spec.metric:
            return OwnProbe(spec, data, protocol, rows)
        return MetricProbe(spec, data, protocol, rows)


def measure_probes(
    probes: Sequence[Probe], answer: Answering, before: Answering | None = None
) -> list[ProbeResult]:
    """Measure several probes of one model, which is asked once about the same data.

    Args:
        probes: of different names.
        answer: the model: inputs -> probabilities (N, K) or values (N, M).
        before: the last validated version, for flips; None for none.

    Returns: a result per probe, in their order.

    Raises:
        SettingError: two probes of one name.
        DataError: answers that are none.
    """
    names = [probe.name for probe in probes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingError(f"two probes are called {twice!r}; give each its own name")
    now = AnswersOnce(answer)
    then = None if before is None else AnswersOnce(before)
    return [probe.measure(now, then) for probe in probes]


class MetricProbe:
    """Probe of a built-in metric; see `make_probe`.

    Attributes:
        name, metric, better: see `Probe`.
        data: on which it measures.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        data: ProbeData,
        protocol: EvaluationProtocol,
        slices: dict[str, list[int]],
    ) -> None:
        self._metric = find_metric(spec.metric)
        self._request = _make_request(spec, data, protocol, self._metric.settings)
        check_needs(self._metric, spec, data)
        self.name, self.metric = spec.name, spec.metric
        self.better: Direction = self._metric.better
        self.data, self._slices = data, slices
        self._has_classes = self._metric.answers == "probabilities" or (
            self.metric == "invariance" and self._request.settings.tolerance is None
        )

    @property
    def data_digest(self) -> str:
        """SHA-256 digest of its data."""
        return self.data.digest

    def measure(self, answer: Answering, before: Answering | None = None) -> ProbeResult:
        """Measure a model; `before` answers as the last validated version did.

        Raises:
            DataError: answers of another shape, or that are no probabilities.
        """
        with _naming(self.name):
            rows = self._ask(answer, before)
            self._check_positive(rows)
            chosen = self._request.settings.slice
            if chosen:
                rows = rows.select(self._slices[chosen])
            figure = self._metric.measure(rows, self._request)
            named = [] if chosen else list(self._slices.items())
            parts = [(name, self._measure_part(rows, of)) for name, of in named]
            if self._metric.needs == "slices":
                figure = _pick_worst(figure, parts)
            elif self._metric.needs != "groups":
                parts += [
                    (name, self._measure_part(rows, of))
                    for name, of in _list_groups(rows.columns, self._request)
                ]
            figure = _add_parts(figure, parts)
            failed = int((~rows.answers.isfinite().all(dim=1)).sum())
            if failed and self._metric.answers != "values":
                said = f"{failed} of {rows.num_rows} answers are not finite and count as wrong"
                figure = replace(figure, notes=(*figure.notes, said))
            return _make_result(self, figure, self._request.confidence)

    def _ask(self, answer: Answering, before: Answering | None) -> AnsweredRows:
        data, count = self.data, self.data.num_rows
        answers = read_answers(answer, data.x, count, self._has_classes)
        changed = previous = None
        if self._metric.needs == "changed":
            changed = read_answers(answer, data.x_changed, count, self._has_classes)
        if self._metric.needs == "before" and before is not None:
            previous = read_answers(before, data.x, count, self._has_classes)
        target = None if data.y is None else data.y.cpu()
        return AnsweredRows(answers, target, data.columns, changed, previous)

    def _check_positive(self, rows: AnsweredRows) -> None:
        if "positive" not in self._metric.settings or self.metric == "monotonicity":
            return
        largest = -1 if rows.target is None else int(rows.target.max())
        count = max(rows.answers.shape[1], largest + 1)
        if self._request.settings.positive >= count:
            raise SettingError(
                f"positive = {self._request.settings.positive}; there are classes 0 to {count - 1}"
            )

    def _measure_part(self, rows: AnsweredRows, of: Sequence[int]) -> MetricFigure:
        return self._metric.measure(rows.select(of), self._request)


class OwnProbe:
    """Probe of a metric of the user's own, "module:function"; see `make_probe`.

    The function is given the model's answers, as a function of inputs, and the `ProbeData`; it
    gives a float or a whole `ProbeResult`.

    Attributes:
        name, metric, better: see `Probe`.
        data: on which it measures.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        data: ProbeData,
        protocol: EvaluationProtocol,
        slices: dict[str, list[int]],
    ) -> None:
        self._function: Callable[..., object] = import_function(spec.metric)
        self._request = _make_request(spec, data, protocol, ("better",))
        self.name, self.metric = spec.name, spec.metric
        self.better: Direction = self._request.settings.better
        chosen = self._request.settings.slice
        self._whole = data
        self.data = data.select(slices[chosen]) if chosen else data
        # Parts are cut once, so that a model is asked about each of them once.
        named = [] if chosen else list(slices.items())
        named += _list_groups(self.data.columns, self._request)
        self._parts = [(name, self.data.select(of)) for name, of in named]

    @property
    def data_digest(self) -> str:
        """SHA-256 digest of its data."""
        return self._whole.digest

    def measure(self, answer: Answering, before: Answering | None = None) -> ProbeResult:
        """Measure a model; `before` is not asked.

        Raises:
            DataError: the function fails.
            SettingError: it gives something else than a float or a `ProbeResult`.
        """
        del before
        with _naming(self.name):
            given = self._call(answer, self.data)
            if isinstance(given, ProbeResult):
                return replace(
                    given,
                    probe=self.name,
                    metric=self.metric,
                    better=self.better,
                    data_digest=self.data_digest,
                )
            figure = self._judge(given, self.data)
            parts = []
            for name, data in self._parts:
                value = self._call(answer, data)
                if isinstance(value, ProbeResult):
                    raise SettingError(f"{self.metric!r} gave a float and then a ProbeResult")
                parts.append((name, self._judge(value, data)))
            return _make_result(self, _add_parts(figure, parts), self._request.confidence)

    def _call(self, answer: Answering, data: ProbeData) -> float | ProbeResult:
        try:
            given = self._function(answer, data)
        except NestlingError:
            raise
        except Exception as error:
            raise DataError(f"{self.metric!r} failed: {type(error).__name__}: {error}") from error
        if isinstance(given, ProbeResult):
            return given
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise SettingError(
                f"{self.metric!r} gave {name_kind(given)}; return a float or a ProbeResult"
            )
        return float(given)

    def _judge(self, value: float, data: ProbeData) -> MetricFigure:
        count = data.num_rows
        if count < self._request.least:
            return refuse_few(count, "rows", self._request)
        return MetricFigure(value, math.nan, math.nan, count)


def _make_request(
    spec: ProbeSpec, data: ProbeData, protocol: EvaluationProtocol, settings: tuple[str, ...]
) -> MetricRequest:
    read: MetricSettings = read_settings(spec, settings)
    least = 1 if spec.metric == "canary_pass_rate" else protocol.least_examples
    if spec.least_examples is not None:
        least = spec.least_examples
    return MetricRequest(read, tuple(spec.groups), protocol.confidence, least, data.digest)


def _list_groups(
    texts: Mapping[str, Sequence[str]], request: MetricRequest
) -> list[tuple[str, list[int]]]:
    """The rows of every group."""
    found: dict[str, list[int]] = {}
    for columns in name_groups(request) if request.groups else []:
        for row, group in enumerate(label_rows(texts, columns)):
            found.setdefault(group, []).append(row)
    return sorted(found.items())


def _add_parts(figure: MetricFigure, parts: list[tuple[str, MetricFigure]]) -> MetricFigure:
    added = tuple(
        ProbePart(name, part.value, part.low, part.high, part.num_examples) for name, part in parts
    )
    said = tuple(f"{name}: {words}" for name, part in parts for words in part.too_few)
    notes = tuple(f"{name}: {words}" for name, part in parts for words in part.notes)
    return replace(
        figure,
        parts=(*figure.parts, *added),
        too_few=(*figure.too_few, *said),
        notes=(*figure.notes, *notes),
    )


def _pick_worst(figure: MetricFigure, parts: list[tuple[str, MetricFigure]]) -> MetricFigure:
    """The worst of the slices, or of what is chosen where nothing else is."""
    known = [part for _, part in parts if not math.isnan(part.value)]
    if not parts:
        return figure
    if not known:
        return MetricFigure(math.nan, math.nan, math.nan, figure.num_examples)
    worst = min(known, key=lambda part: part.value)
    return MetricFigure(worst.value, worst.low, worst.high, figure.num_examples)


def _make_result(
    probe: MetricProbe | OwnProbe, figure: MetricFigure, confidence: float
) -> ProbeResult:
    return ProbeResult(
        probe.name,
        probe.metric,
        figure.value,
        figure.low,
        figure.high,
        figure.num_examples,
        confidence,
        probe.better,
        probe.data_digest,
        figure.parts,
        figure.too_few,
        figure.notes,
    )


@contextmanager
def _naming(probe: str) -> Iterator[None]:
    """Errors say of which probe they are."""
    try:
        yield
    except (SettingError, DataError) as error:
        raise type(error)(f"probe {probe!r}: {error}") from error
