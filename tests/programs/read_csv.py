"""A table as Python's csv module reads it: JSON, an object for each row."""

import csv
import json
import sys

with open(sys.argv[1], newline="", encoding="utf-8") as file:
    print(json.dumps(list(csv.DictReader(file, strict=True))))
