"""PromQL for the dashboards: the metrics of the chosen model on the servers of the chosen version.

Only `offramp_model_info` knows versions, so every other series is kept where its server has one
that matches. Expressions are Grafana's: `$model`, `$version` and `$__rate_interval` are filled in.
"""

LOADED = 'offramp_model_info{model="$model",version=~"$version"}'
MODEL = 'model="$model"'
WINDOW = "$__rate_interval"


def rate(metric: str, *by: str, where: str = MODEL, window: str = WINDOW) -> str:
    """A counter of the model, per second, summed by some of its labels."""
    return total(f"rate({metric}{{{where}}}[{window}])", *by)


def total(series: str, *by: str) -> str:
    """Series that carry the model's name, summed over the servers that loaded the version."""
    return f"{_sum(*by)}({series} and on (instance, model) {LOADED})"


def rate_of_servers(metric: str, *by: str, where: str = "") -> str:
    """A counter of whole servers, per second, summed by some of its labels."""
    return f"{_sum(*by)}({of_servers(f'rate({metric}{{{where}}}[{WINDOW}])')})"


def of_servers(series: str) -> str:
    """Series without a model, of the servers that loaded the version."""
    return f"{series} and on (instance) {LOADED}"


def quantile(share: float, buckets: str) -> str:
    """Estimated from a histogram's buckets, which must still have their `le`."""
    return f"histogram_quantile({share}, {buckets})"


def ratio(part: str, whole: str) -> str:
    """One series over one, or series by some label over their sum."""
    return f"{part} / on () group_left () {whole}"


def _sum(*by: str) -> str:
    return f"sum by ({', '.join(by)}) " if by else "sum"
