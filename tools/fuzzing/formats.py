"""All formats that the project reads, by name."""

from __future__ import annotations

from tools.fuzzing import model_formats, run_formats, table_formats, torch_formats

FORMATS = {
    format.name: format
    for group in (torch_formats, model_formats, table_formats, run_formats)
    for format in group.FORMATS
}
