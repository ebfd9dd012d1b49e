"""An interval log as the package hdrhistogram reads it: JSON, by tag."""

import json
import math
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 2**50 - 1, 2))
found = []
while (histogram := reader.get_next_interval_histogram()) is not None:
    n = histogram.get_total_count()

    # The package rounds ranks to the nearest, we round them up: so ask for a whole rank.
    def at(quantile):
        return histogram.get_value_at_percentile(math.ceil(quantile * n) / n * 100)

    found.append(
        {
            "tag": histogram.get_tag(),
            "count": n,
            "min_ns": histogram.get_min_value(),
            "p50_ns": at(0.5),
            "p90_ns": at(0.9),
            "p99_ns": at(0.99),
            "p999_ns": at(0.999),
            "max_ns": histogram.get_max_value(),
            "begin_ms": histogram.get_start_time_stamp(),
            "end_ms": histogram.get_end_time_stamp(),
        }
    )
print(json.dumps(found))
