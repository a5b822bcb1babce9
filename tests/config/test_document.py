"""docs/config.md agrees with the declarations."""

from pathlib import Path

from clac_jax.config.document import document, main
from clac_jax.config.run import all_keys

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_the_one_that_is_written_now():
    assert PAGE.read_text() == document(), "run `make docs-config`"


def test_every_key_has_a_row_with_its_default_and_what_it_may_be():
    rows = {}
    for line in document().splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "!").strip("|").split("|")]
        if len(cells) == 6:
            rows[cells[0].strip("`")] = cells
    for name, key in all_keys().items():
        _, default, meaning, values, *_ = rows[name]
        assert default == f"`{key.default!r}`"
        assert meaning
        for choice in key.choices:
            assert f"`{choice}`" in values
        for bound in {key.low, key.high, key.below} - {None}:
            assert str(bound) in values


def test_the_page_is_printed_or_written(tmp_path, capsys):
    main([])
    assert capsys.readouterr().out == document()
    main([str(tmp_path / "config.md")])
    assert (tmp_path / "config.md").read_text() == document()
