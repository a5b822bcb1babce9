import pytest

from clac_jax.config import schema as config_lib
from clac_jax.config.check import validate
from configs import base, clac_paper, smoke


@pytest.mark.parametrize("module", [base, clac_paper, smoke])
def test_shipped_configs_are_valid(module):
    validate(module.get_config())


def test_misspelt_key_is_refused_with_the_right_name():
    config = base.get_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.learning_rte = 1.0


def test_unknown_key_of_a_users_own_config_is_refused_with_the_right_name():
    config = base.get_config()
    with config.unlocked():
        config.checkpoint.save_top_kk = 3
    with pytest.raises(config_lib.ConfigError, match=r'Did you mean "checkpoint.save_top_k"'):
        validate(config)


def test_missing_key_is_named():
    config = base.get_config()
    with config.unlocked():
        del config.seed
    with pytest.raises(config_lib.ConfigError, match='"seed" is missing'):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 1, "at least 2"),
        ("max_epochs", 0, "at least 1"),
        ("replace_formula_prob", 1.5, "from 0.0 to 1.0"),
        ("text_encoder.num_layers", 0, "at least 1"),
        ("input.group_by", "element", "one of none, formula, elements"),
        ("gradient_cache_chunks", 0, "at least 1"),
        ("schedule", "cosin", "one of constant, cosine"),
        ("remat", ("text_encodr",), "can hold graph_encoder, text_encoder"),
    ],
)
def test_values_that_cannot_be_used(key, value, message):
    config = base.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(config_lib.ConfigError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "property", "checkpoint.monitor": "val_mae"}, "set accumulate_steps"),
        ({"graph_encoder.name": "cgcnn"}, "statistics of the full batch"),
    ],
)
def test_what_chunks_cannot_train_is_refused(changes, message):
    config = base.get_config()
    config.update_from_flattened_dict({"gradient_cache_chunks": 2, **changes})
    with pytest.raises(config_lib.ConfigError, match=message):
        validate(config)


def test_differences_are_named_and_a_tuple_equals_its_saved_list():
    import json

    config = base.get_config()
    saved = json.loads(config_lib.to_json(config))
    assert config_lib.differences(saved, config.to_dict()) == []
    config.checkpoint.save_top_k = 7
    config.max_epochs = 99
    assert config_lib.differences(saved, config.to_dict()) == [
        ("checkpoint.save_top_k", saved["checkpoint"]["save_top_k"], 7),
        ("max_epochs", saved["max_epochs"], 99),
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("batch_size", "x", "a whole number"),
        ("batch_size", 1.5, "a whole number"),
        ("batch_size", True, "a whole number"),
        ("max_epochs", None, "a whole number"),
        ("learning_rate", "1e-3", "a number"),
        ("learning_rate", float("nan"), "a number"),
        ("debug", "False", "True or False"),
        ("schedule", 7, "a text"),
        ("frozen", "text_encoder", "a tuple"),
        ("dataset.path", 7, "a text"),
        ("optimizer.b1", [], "a number"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(key, value, words):
    config = config_lib.default_config()
    with config.ignore_type():  # as for the config.json of a run
        config.update_from_flattened_dict({key: value})
    with pytest.raises(config_lib.ConfigError, match=f'"{key}" is .*, and must be {words}'):
        validate(config)
