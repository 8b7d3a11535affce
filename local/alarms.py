"""Computes the state of an alarm by its rule, as CloudWatch does."""

import operator
from typing import Any

from local.metrics import Metric, Metrics

_COMPARISONS = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanOrEqualToThreshold": operator.le,
    "LessThanThreshold": operator.lt,
}
_MISSING_IS_BREACHING = {"breaching": True, "notBreaching": False}


def metric_of(alarm: dict[str, Any]) -> Metric:
    """The metric that an alarm watches. `alarm`: as DescribeAlarms returns it."""
    dimensions = {dimension["Name"]: dimension["Value"] for dimension in alarm["Dimensions"]}
    return Metric.of(alarm["Namespace"], alarm["MetricName"], dimensions)


def state(alarm: dict[str, Any], metrics: Metrics, now: float) -> str:
    """ALARM or OK, from the last EvaluationPeriods before `now`. `alarm`: as DescribeAlarms returns it. It must define
    whether a period without data breaches.

    Unlike this function, CloudWatch also looks at earlier periods if some periods have no data. So on AWS an alarm can
    stay in ALARM some minutes longer.
    """
    breaches = _COMPARISONS[alarm["ComparisonOperator"]]
    breached = 0
    for number in range(alarm["EvaluationPeriods"]):
        end = now - number * alarm["Period"]
        value = metrics.statistic(metric_of(alarm), alarm["Statistic"], end - alarm["Period"], end)
        if value is None:
            breached += _MISSING_IS_BREACHING[alarm["TreatMissingData"]]
        else:
            breached += breaches(value, alarm["Threshold"])
    return "ALARM" if breached >= alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]) else "OK"
