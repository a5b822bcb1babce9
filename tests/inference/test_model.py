"""`clac_jax.load`: a trained model without its data."""

import dataclasses

import flax.traverse_util
import jax
import ml_collections
import numpy as np
import pytest
from helpers.crystals import NACL, random_crystal, rock_salt

import clac_jax
from clac_jax import datasets
from clac_jax.api import InputError, LoadError
from clac_jax.checkpoint.locate import CheckpointNotFoundError
from clac_jax.config.schema import to_plain
from clac_jax.crystals.graph import build_graph
from clac_jax.errors import UserError
from clac_jax.files.huggingface import PretrainedError
from clac_jax.inference.source import Source
from clac_jax.input_pipeline.batch import BatchShape, ExampleViews, TokenView, collate
from clac_jax.models.build import build_graph_encoder, build_model
from clac_jax.models.property_model import PropertyModel
from clac_jax.tasks.metrics import pool_metrics
from clac_jax.text.sentences import Tokenizer
from configs import smoke

NUM_TEST = 8


def one_batch(config, crystals, texts):
    """Everything in one batch of a different shape, seen by the model as in evaluation."""
    tokenizer = Tokenizer.from_folder("minilm")
    examples = [
        ExampleViews(
            index=k,
            graphs=(build_graph(crystal, config.graph_encoder.cutoff),),
            tokens=(TokenView(tokenizer.encode(text, config.text_encoder.max_length)),),
        )
        for k, (crystal, text) in enumerate(zip(crystals, texts, strict=True))
    ]
    largest = max(crystal.num_atoms for crystal in crystals)
    shape = BatchShape(len(examples) + 3, 1, 1, ((largest, len(examples)),), 1 << 15, ((64, 8),))
    return collate(examples, shape), tokenizer.vocab_size


def made(config):
    """A fresh model of a config, as `Model` expects it."""
    batch, vocab_size = one_batch(config, [rock_salt()], ["salt"])
    if config.task == "property":
        model = PropertyModel(build_graph_encoder(config), 3)
    else:
        model = build_model(config, vocab_size)
    initialise = jax.jit(lambda key: model.init(key, batch, train=False))
    variables = initialise(jax.random.PRNGKey(0))
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {path: np.asarray(leaf) for path, leaf in arrays.items()}
    return Source(
        name="fresh",
        config=ml_collections.FrozenConfigDict(to_plain(config)),
        step=0,
        shapes={path: leaf.shape for path, leaf in arrays.items()},
        read=lambda paths: {path: arrays[path] for path in paths},
    )


def fresh(**changes):
    """An untrained model of the smoke config with some changes."""
    config = smoke.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return clac_jax.Model(made(config))


def test_embeddings_are_unit_vectors_in_one_space(model, crystals, texts):
    for embedded in (model.embed_crystals(crystals), model.embed_texts(texts)):
        assert embedded.shape == (NUM_TEST, model.config.projection_dim)
        assert embedded.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-5)


def test_they_are_those_of_the_evaluation(row_of_test, model, crystals, texts):
    batch, vocab_size = one_batch(model.config, crystals, texts)
    output = build_model(model.config, vocab_size).apply(
        model._devices.variables, batch, train=False
    )
    left, right = output.graph_projections[0, :NUM_TEST], output.text_projections[0, :NUM_TEST]
    np.testing.assert_allclose(model.embed_crystals(crystals), left, atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(texts), right, atol=1e-5)
    measured = pool_metrics(model.similarity(texts, crystals))
    assert measured == {name: row_of_test[name] for name in measured}


def test_results_do_not_depend_on_what_is_given_together(model, crystals, texts):
    rng = np.random.default_rng(0)
    crystals = [*crystals, *(random_crystal(rng, max_atoms=40) for _ in range(40))]
    texts = [*texts, "Salt.", " ".join(texts)]
    for embed, values in ((model.embed_crystals, crystals), (model.embed_texts, texts)):
        together = embed(values)
        singly = [embed([value])[0] for value in values[:: len(values) // 8]]
        np.testing.assert_allclose(together[:: len(values) // 8], singly, atol=1e-5)
        np.testing.assert_allclose(embed(values[::-1])[::-1], together, atol=1e-5)


def test_similarity_is_the_scaled_cosine(model, crystals, texts):
    scores = model.similarity(texts[:3], crystals)
    assert scores.shape == (3, NUM_TEST)
    vectors = model.embed_texts(texts[:3]), model.embed_crystals(crystals)
    np.testing.assert_array_equal(model.scores(*vectors), scores)
    cosines = vectors[0] @ vectors[1].T
    scale = np.exp(model._devices.variables["params"]["cross_head"]["log_scale"])
    np.testing.assert_allclose(scores, scale * cosines, rtol=1e-4, atol=1e-4)


def test_crystals_come_in_any_form(model, crystals, tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    crystal = clac_jax.Crystal.from_cif(NACL)
    forms = [crystal, tmp_path / "a.cif", str(tmp_path / "a.cif")]
    forms += [crystal.to_ase(), crystal.to_pymatgen()]
    embedded = model.embed_crystals(form for form in forms)
    np.testing.assert_allclose(embedded, np.tile(embedded[:1], (len(forms), 1)), atol=1e-5)


def test_few_programs_are_compiled_for_crystals_of_all_sizes(crystals):
    model = fresh(graph_encoder__name="composition")
    rng = np.random.default_rng(0)
    many = [random_crystal(rng, max_atoms=30) for _ in range(200)]
    for _ in range(3):
        model.embed_crystals([many[k] for k in rng.permutation(len(many))])
    assert model._embed_graphs.num_compiled <= 6


def test_the_step_and_the_config_are_those_of_the_checkpoint(run, model):
    steps = [clac_jax.load(run[0]).step, clac_jax.load(f"{run[0]}@step=2").step]
    assert steps == [4, 2]
    assert model.config.projection_dim == smoke.get_config().projection_dim
    assert "run@step=" in repr(model) and "contrastive, 16 dimensions, painn" in repr(model)
    with pytest.raises(AttributeError):
        model.config.projection_dim = 3


def test_the_checksum_is_that_of_the_numbers(run, model):
    step = model.step
    assert len(model.checksum) == 64 and set(model.checksum) <= set("0123456789abcdef")
    assert clac_jax.load(run[0] / "checkpoints" / str(step)).checksum == model.checksum
    other = clac_jax.load(f"{run[0]}@step={4 if step != 4 else 3}")
    assert other.checksum != model.checksum
    assert model.name == f"{run[0]}@step={step}"
    assert model.dim == 16 and model.is_dot_product


def test_no_data_is_opened_and_nothing_is_written(run, crystals, tmp_path, monkeypatch):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run[0].rglob("*")}

    def refuse(*arguments):
        raise AssertionError(f"{arguments} was opened")

    before = state()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", refuse)
    clac_jax.load(run[0]).embed_crystals(crystals[:1])
    assert state() == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__name": "siglip"},
        {"graph_encoder__name": "cgcnn", "graph_encoder__max_neighbours": 8},
        {
            "graph_encoder__name": "orb",
            "graph_encoder__hidden_features": 16,
            "graph_encoder__max_neighbours": 8,
        },
        {"graph_encoder__add_composition": True},
        {"text_encoder__config__model_type": "gpt2", "text_encoder__feature": "last"},
    ],
)
def test_every_kind_of_model_embeds(changes, crystals, texts):
    model = fresh(**changes)
    assert np.isfinite(model.similarity(texts[:2], crystals[:3])).all()
    np.testing.assert_allclose(np.linalg.norm(model.embed_texts(texts[:2]), axis=1), 1, atol=1e-5)


def test_with_a_critic_the_similarity_is_the_critics(crystals, texts):
    model = fresh(loss__name="jsd", loss__critic="concat")
    batch, vocab_size = one_batch(model.config, crystals, texts)
    clac = build_model(model.config, vocab_size)
    cross = clac.apply(model._devices.variables, batch, train=False).cross
    expected = cross.scores(cross.left[0, :NUM_TEST], cross.right[0, :NUM_TEST]).T
    np.testing.assert_allclose(model.similarity(texts, crystals), expected, atol=1e-5)
    assert not model.is_dot_product


def test_a_property_model_predicts(crystals):
    model = fresh(task="property", property__kind="classification")
    classes = model.predict(crystals)
    assert classes.shape == (NUM_TEST,) and classes.dtype == np.int32
    assert set(classes.tolist()) <= {0, 1, 2}
    with pytest.raises(LoadError, match="embed_texts needs a contrastive model"):
        model.embed_texts(["salt"])
    with pytest.raises(LoadError, match="embed_crystals needs a contrastive model"):
        model.embed_crystals(crystals)
    with pytest.raises(LoadError, match="similarity needs a contrastive model"):
        model.similarity(["salt"], crystals)


def test_a_number_is_predicted_in_the_unit_of_the_labels(crystals):
    config = smoke.get_config()
    config.task = "property"
    source = made(config)

    def with_std(std, mean):
        scaled = {
            "batch_stats/label_std": np.float32(std),
            "batch_stats/label_mean": np.float32(mean),
        }
        read = source.read
        changed = dataclasses.replace(source, read=lambda paths: read(paths) | scaled)
        return clac_jax.Model(changed)

    plain, scaled = (with_std(*numbers).predict(crystals) for numbers in ((1, 0), (2, 10)))
    assert plain.shape == (NUM_TEST,) and plain.dtype == np.float32
    np.testing.assert_allclose(scaled, 2 * plain + 10, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "The list of crystals is empty"),
        ((), "is empty"),
        ("a.cif", "must be a list"),
        (rock_salt(), "must be a list"),
        (rock_salt().to_ase(), "must be a list"),
        (rock_salt().to_pymatgen(), "must be a list"),
        (3, "must be a list"),
        ([rock_salt(), "nothing.cif"], "Crystal 1 .*nothing.cif cannot be used: There is no such"),
        ([rock_salt(), 3], "Crystal 1 cannot be used: 3 is not a crystal"),
    ],
)
def test_crystals_that_cannot_be_used(model, values, words):
    with pytest.raises(InputError, match=words):
        model.embed_crystals(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "The list of texts is empty"),
        ("salt", "The texts must be a list"),
        (["salt", "  "], "Text 1 is empty"),
        (["salt", None], "Text 1 is empty or not a string"),
    ],
)
def test_texts_that_cannot_be_used(model, values, words):
    with pytest.raises(InputError, match=words):
        model.embed_texts(values)


def test_a_contrastive_model_predicts_nothing(model, crystals):
    with pytest.raises(LoadError, match="predict needs a property model"):
        model.predict(crystals)


def test_names_that_are_not_a_model(run, tmp_path):
    for name, words in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path, "holds none"),
        (f"{run[0]}@step=77", "@step=77"),
        (f"{run[0]}@worst", "@worst"),
    ):
        with pytest.raises(CheckpointNotFoundError, match=words):
            clac_jax.load(name)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        clac_jax.load(tmp_path / "model.safetensors")


def test_a_checkpoint_that_is_not_of_its_config():
    config = smoke.get_config()
    source = made(config)
    config.graph_encoder.out_dim = 8
    other = ml_collections.FrozenConfigDict(to_plain(config))
    with pytest.raises(LoadError, match=r"has the shape \(.*16.*\) in the checkpoint, and .*8"):
        clac_jax.Model(dataclasses.replace(source, config=other))


def test_a_tokenizer_that_is_gone_is_named():
    config = smoke.get_config()
    source = made(config)
    config.text_encoder.tokenizer = "nowhere"
    other = ml_collections.FrozenConfigDict(to_plain(config))
    with pytest.raises(PretrainedError, match="no folder 'nowhere'"):
        clac_jax.Model(dataclasses.replace(source, config=other))
