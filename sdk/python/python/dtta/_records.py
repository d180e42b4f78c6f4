"""Records of a run as columns, for whatever frame one has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _dtta
from ._errors import ExperimentError


class Records(dict[str, list[Any]]):
    """What a run wrote of each sample: a list for each column, with `None` where a record says nothing.

    Fields within fields are joined by a dot: `source.prediction`, `adapted.confidence`. `pandas.DataFrame(records)` takes it
    as it is; `to_polars` also takes columns in which some numbers are whole. It is also a stream of Arrow (`__arrow_c_stream__`), for which PyArrow need not be there.
    """

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Of a file `records.jsonl`. A last line that was cut short is left out, as a resumed run does.

        Raises `ExperimentError` for a line that is no record.
        """
        rows: list[dict[str, Any]] = []
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ExperimentError(f"line {number} of `{path}` is no record: {error}", str(path)) from None
                if not isinstance(record, dict):
                    raise ExperimentError(f"line {number} of `{path}` is no record but a {type(record).__name__}", str(path))
                rows.append(dict(_flat("", record)))
        names = dict.fromkeys(name for row in rows for name in row)
        return cls({name: [row.get(name) for row in rows] for name in names})

    @property
    def rows(self) -> int:
        """The number of records."""
        return len(next(iter(self.values()), []))

    def __repr__(self) -> str:
        return f"Records({self.rows} rows, columns={list(self)})"

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`."""
        import pandas

        return pandas.DataFrame(dict(self))

    def to_polars(self) -> Any:
        """A `polars.DataFrame`."""
        import polars

        return polars.DataFrame(dict(self), strict=False)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`."""
        import pyarrow

        return pyarrow.table(dict(self))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """One batch in a capsule `arrow_array_stream`. Columns have the types of their values, whatever schema is asked for.

        Raises `TypeError` for a column of anything but truth values, numbers, texts and lists of numbers.
        """
        return _dtta.arrow_stream(self)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of an object with their names; lists stay whole."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
