"""Sweep files: what they may say, and one sentence for each mistake, before anything runs."""

import dataclasses
import json

import pytest
from helpers.paths import ROOT

from clac_jax.errors import UserError
from clac_jax.sweeps import choice, integer, log, uniform
from clac_jax.sweeps.checked import complete
from clac_jax.sweeps.definition import Definition, SweepFileError, read, sweep_folder
from clac_jax.sweeps.space import is_active, ordered

GOOD = """
from clac_jax.sweeps import choice, integer, log, uniform
_mine = 3
def helper():
    return _mine
config = "smoke"
space = {"learning_rate": log(1e-5, 1e-2), "schedule": choice("constant", "cosine")}
budget = dict(trials=4)
"""


@pytest.fixture
def file(tmp_path):
    def write(*lines, start=GOOD):
        path = tmp_path / "sweep.py"
        path.write_text("\n".join([start, *lines]))
        return str(path)

    return write


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_a_shipped_file_can_be_used_by_its_name(path):
    definition = complete(read(path.stem))
    assert definition.monitor and definition.mode in ("min", "max")
    assert sweep_folder() == ROOT / "sweeps"


def test_a_file_is_read_with_its_defaults(file):
    definition = read(file())
    assert definition.sampler == {"name": "tpe"} and definition.prune is None
    assert definition.space["learning_rate"] == log(1e-5, 1e-2)
    assert (definition.parallel, definition.seed, definition.keep_checkpoints) == (1, 0, 3)
    assert Definition.from_plain(definition.to_plain()) == definition
    completed = complete(definition)
    assert (completed.monitor, completed.mode) == ("val_loss", "min")
    assert completed.overrides == {"max_epochs": 2}
    assert Definition.from_plain(completed.to_plain()) == completed


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "samplr = 'grid'",
            "sets 'samplr', which is not a part of a sweep. Did you mean 'sampler'",
        ),
        ("anything = 3", "start your own names with _"),
        ("config = 3", "config is missing"),
        ("space = {}", "space is empty"),
        ("space = [1]", "space is [1], and must be a dict"),
        ("space = {'learning_rate': 3}", 'the space of "learning_rate" is 3. Write log('),
        ("space['learning_rate'] = log(0, 1)", "logarithmic range must be above 0"),
        ("space['learning_rate'] = uniform(1, 1)", "The lower bound 1 must be below the upper"),
        ("space['learning_rate'] = uniform('a', 1)", "The bound 'a' must be a number"),
        ("space['batch_size'] = integer(1, 2.5)", "The bound 2.5 must be a whole number"),
        ("space['schedule'] = choice()", "It has no values to choose from"),
        ("space['schedule'] = choice('cosine')", "It has 1 value to choose from"),
        ("space['schedule'] = choice('a', 'b', 'a')", "The value 'a' is there twice"),
        ("overrides = {'schedule': 'cosine'}", '"schedule" is in the space and in overrides'),
        ("sampler = 'tpee'", "sampler is 'tpee'. Write one of tpe, cmaes, grid, qmc, random"),
        ("sampler = dict(name='tpe', start=1)", "has no option 'start'. It has: startup_trials"),
        (
            "prune = dict(name='median', warmup_epochs='x')",
            "Give a whole number from 0 to 1,000,000, such as 0",
        ),
        ("prune = dict(name='hyperband', reduction=-1)", "has reduction=-1"),
        ("prune = dict(name='hyperband', min_epochs=0)", "has min_epochs=0"),
        (
            "prune = dict(name='wilcoxon', p_threshold=1.5)",
            "Give a number from 0 to 1, such as 0.1",
        ),
        ("prune = dict(name='median', startup_trials=10**400)", "has startup_trials=1000"),
        ("prune = dict(name='wilcoxon', p_threshold=float('nan'))", "has p_threshold=nan"),
        ("sampler = dict(name='grid', points=0)", "Give a whole number from 1 to 10,000"),
        ("sampler = dict(name='grid', points=True)", "has points=True"),
        ("sampler = dict(name='cmaes', sigma=0.0)", "Give a number from 1e-06 to 1"),
        ("budget = {}", "budget is missing"),
        ("budget = dict(trial=3)", "budget has 'trial'. It may have trials and hours"),
        ("budget = dict(trials=2.5)", "budget has trials=2.5"),
        ("budget = dict(hours=0)", "budget has hours=0"),
        ("parallel = 0", "parallel is 0. Give a whole number, 1 or more"),
        ("seed = 1.5", "seed is 1.5"),
        ("mode = 'best'", "mode is 'best'. Write 'min' or 'max'"),
        ("space = {'a': log(1, 2, when={'b': 1}), 'b': log(1, 2, when={'a': 1})}", "in a circle"),
        ("x = 1 / 0", "line 12 cannot be run: ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(file, line, message):
    with pytest.raises(SweepFileError) as raised:
        read(file("", "", line))
    assert message in str(raised.value) and "sweep.py" in str(raised.value)


def test_a_file_that_does_not_exist_names_those_that_do():
    with pytest.raises(SweepFileError, match=r"shipped one: base, lr, .*smoke"):
        read("no_such_file")


@pytest.mark.parametrize(
    "line, message",
    [
        ("space['lerning_rate'] = log(1e-3, 1)", 'Unknown config key "lerning_rate". Did you mean'),
        ("overrides = {'no.such': 1}", 'Unknown config key "no.such"'),
        ("space['learning_rate'] = uniform(-1, 1)", '"learning_rate" is -1. It must be at least 0'),
        ("space['max_epochs'] = uniform(1.5, 3)", "takes integers. Write integer(2, 3)"),
        ("space['schedule'] = uniform(1, 3)", "is a range of numbers, and the key takes none"),
        ("space['schedule'] = choice('cosine', 'cosin')", "is 'cosin'. It must be one of"),
        ("space['batch_size'] = choice(4, 'b')", "is 'b', and must be a whole number"),
        ("overrides = {'batch_size': 1}", 'the override of "batch_size" cannot be used'),
        ("monitor = 'train_loss'", "monitor is 'train_loss', which is not measured"),
        ("monitor = 'val_mae'", "is not measured in a validation of the task contrastive"),
        ("space['batch_size'] = integer(4, 8, when={'debug': True})", "the config has False"),
        ("space['batch_size'] = integer(4, 8, when={'schedule': 'plateau'})", "has none of them"),
        (
            "space['batch_size'] = integer(4, 8, when={'nothing': 1})",
            'Unknown config key "nothing"',
        ),
        ("space['cosine.factor'] = uniform(1, 2)", 'only where "schedule" is'),
        ("space['optimizer.momentum'] = uniform(0, 1)", "the config has 'adamw'"),
        ("config = 'no_such_config'", "Unknown config 'no_such_config'"),
        ("config = '/no/such/file.py'", "cannot be loaded: No such file or directory"),
        ("space['reproducible'] = choice('run', 'layout')", "the trial with "),
    ],
)
def test_a_value_that_the_config_does_not_take_is_one_sentence(file, line, message):
    with pytest.raises(UserError) as raised:
        complete(read(file(line)))
    assert message in str(raised.value)


def test_a_key_that_is_declared_for_one_choice_depends_on_it(file):
    lines = (
        "space['schedule'] = choice('constant', 'cosine', 'plateau')",
        "space['cosine.epochs'] = uniform(1, 2)",
        "space['plateau.patience'] = integer(1, 3)",
        "space['weight_decay'] = log(1e-4, 1, when={'schedule': ['constant', 'plateau']})",
    )
    space = complete(read(file(*lines))).space
    assert space["cosine.epochs"].when == {"schedule": ["cosine"]}
    assert space["plateau.patience"].when == {"schedule": ["plateau"]}
    names = ordered(space)
    assert names.index("schedule") < names.index("cosine.epochs")
    assert is_active(space["cosine.epochs"], {"schedule": "cosine"})
    assert not is_active(space["cosine.epochs"], {"schedule": "plateau"})
    assert is_active(space["weight_decay"], {"schedule": "plateau"})


def test_a_condition_that_the_config_meets_is_dropped(file):
    lines = (
        "overrides = {'max_epochs': 3}",
        "space['batch_size'] = integer(4, 8, when={'max_epochs': 3})",
    )
    assert complete(read(file(*lines))).space["batch_size"] == integer(4, 8)


def test_the_monitor_also_ranks_the_checkpoints_of_the_trials(file):
    definition = complete(read(file("monitor = 'text_to_crystal_top1'")))
    assert definition.mode == "max"
    assert definition.overrides["checkpoint.monitor"] == "text_to_crystal_top1"
    assert definition.overrides["checkpoint.mode"] == "max"


def test_a_domain_has_a_value_for_each_share():
    assert [integer(1, 3).at(share) for share in (0.0, 0.34, 0.66, 1.0)] == [1, 2, 2, 3]
    assert log(1e-4, 1).at(0.5) == 0.01 and uniform(-1, 1).at(0.25) == -0.5
    assert choice("a", ("b", 1)).at(0.99) == ("b", 1)
    assert log(1e-2, 1).grid(3) == (0.01, 0.1, 1.0) and integer(1, 2).grid(5) == (1, 2)
    assert uniform(0, 1).grid(1) == (0.5,) and integer(0, 100).grid(3) == (0, 50, 100)
    assert not choice(1, 2).contains(True) and choice((1, 2), 3).contains([1, 2])
    assert not integer(1, 3).contains(1.5) and not uniform(0, 1).contains("a")


def test_the_best_value_ignores_nan():
    definition = dataclasses.replace(Definition(), mode="max")
    assert definition.best([1.0, float("nan"), 2.0]) == 2.0
    assert definition.best([float("nan")]) is None


def test_a_condition_on_a_tuple_is_the_same_after_a_start(file):
    lines = (
        "_text = (r'text_encoder/.*',)",
        "space['frozen'] = choice((), _text)",
        "space['learning_rate'] = log(1e-4, 1e-2, when={'frozen': _text})",
        "space['optimizer.learning_rate_factors'] = choice((), (('text_encoder/.*', 0.1),))",
    )
    completed = complete(read(file(*lines)))
    stored = Definition.from_plain(json.loads(json.dumps(completed.to_plain())))
    assert stored == completed
    for definition in (completed, stored):
        rate = definition.space["learning_rate"]
        assert is_active(rate, {"frozen": ("text_encoder/.*",)})
        assert not is_active(rate, {"frozen": ()})


def test_a_condition_that_an_earlier_version_has_stored_can_be_read(file):
    plain = complete(read(file())).to_plain()
    plain["space"]["learning_rate"]["when"] = {"schedule": "cosine", "frozen": ["a", "b"]}
    rate = Definition.from_plain(plain).space["learning_rate"]
    assert is_active(rate, {"schedule": "cosine", "frozen": "b"})
    assert not is_active(rate, {"schedule": "constant", "frozen": "b"})


def test_a_pruner_that_cannot_be_built_is_one_sentence(file):
    wrong = dataclasses.replace(read(file()), prune={"name": "wilcoxon", "startup_epochs": -1})
    with pytest.raises(SweepFileError, match=r"sweep\.py: prune .* cannot be used: .*nonnegative"):
        complete(wrong)
