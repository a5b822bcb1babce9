"""The last lines of each try, in the workdir."""

from clac_jax.supervision.child import Ended
from clac_jax.supervision.tries import KEPT_TRIES, keep_last_lines

ENDED = Ended(code=76, seconds=12.3, lines=("one", "two é"), step=7, saved=-1, was_silent=False)


def test_a_file_for_each_try(tmp_path):
    path = keep_last_lines(tmp_path, 3, ENDED)
    assert path.parent == tmp_path / "tries" and path.name.endswith("-try-3.txt")
    assert (
        path.read_text(encoding="utf-8") == "Try 3: exit code 76 after 12 seconds.\n\none\ntwo é\n"
    )


def test_the_oldest_files_of_this_supervisor_are_removed(tmp_path):
    keep_last_lines(tmp_path, 0, ENDED)
    other = tmp_path / "tries" / "2020-01-01T00-00-00-node7-4711-try-1.txt"
    other.write_text("of a different host")
    for number in range(1, KEPT_TRIES + 12):
        keep_last_lines(tmp_path, number, ENDED)
    names = {path.name.rpartition("-")[2] for path in (tmp_path / "tries").iterdir()}
    assert len(list((tmp_path / "tries").iterdir())) == KEPT_TRIES + 1 and other.exists()
    assert f"{KEPT_TRIES + 11}.txt" in names


def test_nothing_is_written_where_there_is_no_workdir(tmp_path):
    assert keep_last_lines(None, 1, ENDED) is None
    assert keep_last_lines(tmp_path / "missing", 1, ENDED) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "tries").write_text("a file is in the way")
    assert keep_last_lines(tmp_path, 1, ENDED) is None
