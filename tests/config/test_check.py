"""Refused configs: values that a key's declaration rules out, and combinations of keys."""

import math

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.config.check import ready, validate
from clac_jax.config.run import all_keys
from clac_jax.config.schema import ConfigError, default_config, to_json
from clac_jax.errors import UserError
from configs import base, clac_paper, composition_baseline, encoders, losses, search, smoke

KEYS = all_keys()
OF_OTHER_TYPES = {
    bool: ("False", 0, None),
    int: ("x", "1", 1.5, True, math.nan, None),
    float: ("1e-3", math.nan, [], None),  # a ConfigDict converts True to 1.0
    str: (7, True, [], None),
    tuple: ("text_encoder", 7, {}, None),
}


def config_with(**values):
    """The defaults with changed values of any type, as in a JSON file."""
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


def refusal(key, value):
    with pytest.raises(UserError) as error:
        validate(config_with(**{key: value}))
    return str(error.value)


LAYOUT = {"reproducible": "layout"}


@pytest.mark.parametrize("module", [base, clac_paper, composition_baseline, search, smoke])
def test_shipped_configs_are_valid(module):
    validate(module.get_config())


@pytest.mark.parametrize(
    "module, name",
    [(encoders, name) for name in encoders.ENCODERS] + [(losses, name) for name in losses.LOSSES],
)
def test_shipped_configs_with_a_name_are_valid(module, name):
    validate(module.get_config(name))


def test_a_table_that_the_bundled_data_set_would_not_read_is_refused():
    config = default_config()
    config.dataset.path = "my_text.csv"
    with pytest.raises(ConfigError, match=r"--config\.dataset\.name=gpt_narratives"):
        validate(config)
    config.dataset.name = "gpt_narratives"
    validate(config)


def test_misspelt_key_is_refused_with_the_right_name():
    config = base.get_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.learning_rte = 1.0


def test_unknown_key_of_a_users_own_config_is_refused_with_the_right_name():
    config = base.get_config()
    with config.unlocked():
        config.checkpoint.save_top_kk = 3
    with pytest.raises(ConfigError, match=r'Did you mean "checkpoint.save_top_k"'):
        validate(config)


def test_unknown_key_that_resembles_none_is_refused_with_where_all_are_listed():
    config = base.get_config()
    with config.unlocked():
        config.zzz = 3
    with pytest.raises(ConfigError, match=r'Unknown config key "zzz". docs/config.md lists all'):
        validate(config)


@pytest.mark.parametrize("key", KEYS)
def test_missing_key_is_named(key):
    config = base.get_config()
    *groups, name = key.split(".")
    with config.unlocked():
        group = config
        for each in groups:
            group = group[each]
        del group[name]
    with pytest.raises(ConfigError, match=f'"{key}" is missing'):
        validate(config)


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_a_different_type_is_refused_by_its_key(key):
    for value in OF_OTHER_TYPES[KEYS[key].kind]:
        if value is None and KEYS[key].default is None:
            continue
        assert f'Config key "{key}" is {value!r}, and must be ' in refusal(key, value)


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].low is not None])
def test_a_number_below_its_range_is_refused_and_the_lowest_is_not(key):
    low = KEYS[key].low
    if KEYS[key].kind is tuple:
        assert refusal(key, (low, low - 1)).startswith(
            f'Config key "{key}" has {low - 1}. Each must be at least {low}'
        )
        validate(config_with(**{key: (low, low)}))
        return
    assert f'Config key "{key}" is {low - 1}. It must be ' in refusal(key, low - 1)
    validate(config_with(**{key: low}))


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].high is not None])
def test_a_number_above_its_range_is_refused_and_the_highest_is_not(key):
    low, high = KEYS[key].low, KEYS[key].high
    assert f"It must be from {low} to {high}." in refusal(key, high + 1)
    validate(config_with(**{key: high}))


@pytest.mark.parametrize(
    "key", [key for key in KEYS if KEYS[key].kind is int and KEYS[key].high is None]
)
def test_an_integer_of_more_than_64_bits_is_refused(key):
    for value in (2**63, 10**400):
        assert f"to {2**63 - 1}." in refusal(key, value)
    # Some keys are compared with others after that.
    if key in ("seed", "checkpoint.every_n_steps", "stop_at_step"):
        validate(config_with(**{key: 2**63 - 1}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("logit_scale_init", 0.0), ("seed", 2**63), ("max_epochs", 10**21)],
)
def test_a_value_with_which_nothing_could_be_computed_is_refused(key, value):
    assert f'Config key "{key}" is {value!r}. It must be ' in refusal(key, value)


@pytest.mark.parametrize("key", ["text_encoder.dropout", "optimizer.b1", "optimizer.b2"])
def test_a_number_that_would_divide_by_zero_is_refused(key):
    for value in (1.0, 1.5):
        assert refusal(key, value).endswith(f"is {value}. It must be at least 0.0 and below 1.0.")
    validate(config_with(**{key: 0.999}))


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].choices])
def test_an_unknown_choice_is_refused_with_the_choices(key):
    is_tuple = KEYS[key].kind is tuple
    message = refusal(key, ("none such",) if is_tuple else "none such")
    assert message.startswith(f'Config key "{key}" ') and "'none such'" in message
    assert message.endswith(f"{', '.join(KEYS[key].choices)}.")


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].is_path])
def test_an_impossible_file_name_is_refused_by_its_key(key):
    values = ["http://host/x", "a\0b"]
    values += [] if KEYS[key].may_be_empty else [""]
    values += ["gs://bucket/x"] if KEYS[key].local_only else []
    for value in values:
        assert f'Config key "{key}"' in refusal(key, value)


def test_an_empty_text_means_none_where_a_path_has_a_default():
    validate(config_with(compilation_cache="", resume_from=""))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=2),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(KEYS)), value=json_values)
def test_any_value_of_any_key_is_taken_or_refused_as_the_users_error(key, value):
    try:
        ready(config_with(**{key: value}))
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "at least 2"),
        ({"checkpoint.monitor": "val_mae"}, "With task=contrastive it must be one of val_loss"),
        ({"task": "property", "checkpoint.monitor": "val_acc_top1"}, "of val_loss, val_mae"),
        ({"sharding.what": "optimizer"}, "Set parallel=shard_map"),
        ({"schedule": "cosine_restarts"}, '"cosine.epochs" is 0'),
        ({"graph_encoder.pretrained": "orb.ckpt"}, "Set graph_encoder.name=orb"),
        ({"restore.parts": ("opt_state",)}, 'Add "params"'),
        ({"restore.rules": (("a", 7),)}, "Each rule is a pair"),
        ({"text_encoder.numbers_at": ("0",)}, "has '0'. It can hold whole numbers"),
        ({"text_encoder.numbers_at": (0, 1.0)}, "has 1.0. It can hold whole numbers"),
        ({"text_encoder.numbers_at": (True,)}, "has True. It can hold whole numbers"),
        ({"text_encoder.numbers_at": (-1,)}, "has -1. Each must be at least 0"),
        ({"frozen": ("(",)}, "not a regular expression: missing"),
        ({"frozen": (7,)}, "It has 7, which is not a regular expression"),
        ({"optimizer.weight_decays": (("a", "b"),)}, "Each entry is a pair"),
        ({"optimizer.learning_rate_factors": (("*", 0.1),)}, "not a regular expression"),
        (
            {"gradient_cache_chunks": 2, "task": "property", "checkpoint.monitor": "val_mae"},
            "set accumulate_steps",
        ),
        (
            {"gradient_cache_chunks": 2, "graph_encoder.name": "cgcnn"},
            "statistics of the full batch",
        ),
        (LAYOUT | {"layout_parts": 6}, "added in pairs. Set it to a power of two"),
        (LAYOUT | {"batch_size": 12}, "must be a multiple of layout_parts = 8. Set it to 16"),
        (LAYOUT | {"eval_batch_size": 12}, "must be a multiple of layout_parts = 8. Set it to 16"),
        (LAYOUT | {"gradient_cache_chunks": 2}, 'Leave "gradient_cache_chunks" at 1'),
        (LAYOUT | {"parallel": "shard_map"}, 'Set parallel="pmap"'),
        (LAYOUT | {"graph_encoder.name": "cgcnn"}, "not possible if the encoder is cgcnn"),
        (
            LAYOUT | {"task": "property", "checkpoint.monitor": "val_mae"},
            "not possible if a property is learned",
        ),
    ],
)
def test_values_that_cannot_be_used(changes, message):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_a_group_is_not_a_value():
    config = default_config()
    with config.unlocked(), config.ignore_type():
        config.dataset = 7
    with pytest.raises(
        ConfigError, match=r'"dataset" is a group of keys, not 7. Set "dataset.NAME'
    ):
        validate(config)


@pytest.mark.parametrize(
    "name, cutoff", [("painn", 5.0), ("cgcnn", 6.0), ("orb", 6.0), ("composition", 5.0)]
)
def test_the_config_that_a_run_keeps_says_what_the_encoder_uses(name, cutoff):
    config = default_config()
    config.graph_encoder.name = name
    assert ready(config).graph_encoder.cutoff == cutoff
    assert config.graph_encoder.cutoff is None
    config.graph_encoder.cutoff = 4.5
    assert ready(config).graph_encoder.cutoff == 4.5
    assert to_json(ready(ready(config))) == to_json(ready(config))


def test_a_frozen_config_is_as_good_as_one_that_can_be_changed():
    config = default_config()
    found = ready(ml_collections.FrozenConfigDict(config))
    assert to_json(found) == to_json(ready(config))
    found.max_epochs = 3


@pytest.mark.parametrize("given", [None, {}, "base"])
def test_a_value_that_is_not_a_config_is_refused(given):
    with pytest.raises(ConfigError, match=f"of type {type(given).__name__}"):
        ready(given)


def test_debug_is_one_epoch_of_few_examples():
    config = default_config()
    config.debug = True
    assert (ready(config).max_epochs, ready(config).dataset.max_examples) == (1, 64)
    config.dataset.max_examples = 8
    assert ready(config).dataset.max_examples == 8


@pytest.mark.parametrize(
    ("asked", "fitting"),
    [
        ((128, 1, 64), (64, 1)),
        ((96, 1, 50), (48, 1)),
        ((128, 2, 64), (32, 2)),
        ((4, 8, 5), (2, 2)),
        ((16, 1, 40), (16, 1)),
        ((128, 1, 1), (2, 1)),  # which the order of the examples refuses
    ],
)
def test_debug_lowers_the_batch_to_the_examples_that_were_requested(asked, fitting):
    config = default_config()
    config.debug = True
    config.batch_size, config.accumulate_steps, config.dataset.max_examples = asked
    result = ready(config)
    assert (result.batch_size, result.accumulate_steps) == fitting
    assert result.dataset.max_examples == asked[2]
    assert to_json(ready(result)) == to_json(result)
    config.debug = False
    assert ready(config).batch_size == asked[0]


def test_debug_leaves_a_batch_that_can_be_divided_into_the_parts_of_a_layout():
    config = default_config()
    config.debug, config.reproducible, config.layout_parts = True, "layout", 16
    config.batch_size, config.dataset.max_examples = 64, 20
    assert ready(config).batch_size == 16
    config.dataset.max_examples = 8
    assert ready(config).batch_size == 16


def test_debug_takes_enough_examples_for_two_steps_of_the_real_size():
    config = default_config()
    config.debug, config.batch_size, config.accumulate_steps = True, 128, 2
    assert (ready(config).batch_size, ready(config).dataset.max_examples) == (128, 512)
    assert to_json(ready(ready(config))) == to_json(ready(config))
