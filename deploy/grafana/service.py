"""The dashboard *Service*: rate, errors, duration; queue and batches; the processes; what broke."""

from deploy.grafana.panels import QUANTILES, Curve, Panel, curves
from deploy.grafana.queries import of_servers, quantile, rate, rate_of_servers, total

REQUESTS = "offramp_requests_total"
DURATION = "offramp_request_duration_seconds_bucket"
DECODE = rate_of_servers("offramp_decode_duration_seconds_bucket", "le")

ROWS: dict[str, list[Panel]] = {
    "Requests": [
        curves(
            "Rate",
            "Responses per second by route. A scanner's paths are all `unmatched`.",
            "reqps",
            Curve(rate_of_servers(REQUESTS, "route"), "{{route}}"),
            width=6,
        ),
        curves(
            "Status codes",
            "Responses per second by status code, over all routes.",
            "reqps",
            Curve(rate_of_servers(REQUESTS, "code"), "{{code}}"),
            width=6,
        ),
        curves(
            "Errors",
            "Share of responses that are the server's fault (5xx; refusals under overload among "
            "them) or the client's (4xx).",
            "percentunit",
            *(
                Curve(
                    f"({failed} or vector(0)) / {rate_of_servers(REQUESTS)}",
                    f"{digit}xx",
                )
                for digit in (5, 4)
                for failed in [rate_of_servers(REQUESTS, where=f'code=~"{digit}.."')]
            ),
            width=6,
        ),
        curves(
            "Duration",
            "From headers received to last byte sent, 99th percentile by route, estimated from "
            "the histogram's buckets.",
            "s",
            Curve(quantile(0.99, rate_of_servers(DURATION, "le", "route")), "{{route}}"),
            width=6,
        ),
    ],
    "Work": [
        curves(
            "Latency of /v1/classify",
            "From headers received to last byte sent, over all models and status codes.",
            "s",
            *(
                Curve(
                    quantile(share, rate_of_servers(DURATION, "le", where='route="/v1/classify"')),
                    f"p{100 * share:.0f}",
                )
                for share in QUANTILES
            ),
            width=6,
        ),
        curves(
            "Queue",
            "Images waiting for a worker, images admitted and not yet answered, and how many may "
            "be admitted at once.",
            "short",
            Curve(f"sum({of_servers('offramp_queue_depth')})", "waiting"),
            Curve(f"sum({of_servers('offramp_in_flight')})", "in flight"),
            Curve(f"sum({of_servers('offramp_queue_capacity')})", "capacity"),
            width=6,
        ),
        curves(
            "Batch rows",
            "Mean number of images that ran through a segment together, by the exit it leads to.",
            "short",
            Curve(
                f"{rate('offramp_batch_rows_sum', 'exit')} / "
                f"{rate('offramp_batch_rows_count', 'exit')}",
                "segment {{exit}}",
            ),
            width=6,
        ),
        curves(
            "Images",
            "Images admitted per second by what became of them, and requests whose client went "
            "away by where they were then.",
            "ops",
            Curve(rate("offramp_inferences_total", "outcome"), "{{outcome}}"),
            Curve(rate_of_servers("offramp_cancelled_total", "stage"), "cancelled: {{stage}}"),
            width=6,
        ),
    ],
    "Process": [
        curves(
            "CPU",
            "Cores kept busy, by server.",
            "short",
            Curve(rate_of_servers("process_cpu_seconds_total", "instance"), "{{instance}}"),
            width=6,
        ),
        curves(
            "Memory",
            "Resident memory, by server.",
            "bytes",
            Curve(of_servers("process_resident_memory_bytes"), "{{instance}}"),
            width=6,
        ),
        curves(
            "Files and sockets",
            "File descriptors open, by server.",
            "short",
            Curve(of_servers("process_open_fds"), "{{instance}}"),
            width=6,
        ),
        curves(
            "Decoding",
            "Time to decode all images of one request, over all models.",
            "s",
            *(Curve(quantile(share, DECODE), f"p{100 * share:.0f}") for share in QUANTILES),
            width=6,
        ),
    ],
    "Health": [
        curves(
            "Servers",
            "Servers that Prometheus reaches, over all models, and the servers of each version of "
            "this one.",
            "short",
            Curve('sum(up{job="offramp"})', "up"),
            Curve('sum by (version) (offramp_model_info{model="$model"})', "version {{version}}"),
            width=6,
        ),
        curves(
            "Worker restarts",
            "Worker threads, and server processes, that ended or hung and were replaced.",
            "ops",
            Curve(rate_of_servers("offramp_worker_restarts_total"), "threads"),
            Curve(rate_of_servers("offramp_process_restarts_total"), "processes"),
            width=6,
        ),
        curves(
            "Segment failures",
            "Runs of a segment that failed, per second, and the segments that a circuit breaker "
            "keeps from running (1): answers then stop before them, as degraded.",
            "short",
            Curve(rate("offramp_segment_failures_total", "exit"), "segment {{exit}} failures"),
            Curve(
                total('offramp_segment_disabled{model="$model"}', "exit"),
                "segment {{exit}} disabled",
            ),
            width=6,
        ),
        curves(
            "Bundles refused",
            "Bundles that could not be loaded so far, by model; the version that was serving goes "
            "on.",
            "short",
            Curve("sum by (model) (offramp_model_load_failures_total)", "{{model}}"),
            width=6,
        ),
    ],
}
