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
from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
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
    is_property = config.task == "property"
    property_model = PropertyModel(build_graph_encoder(config), 3)
    model = property_model if is_property else build_model(config, vocab_size)
    variables = jax.jit(lambda key: model.init(key, batch, train=False))(jax.random.PRNGKey(0))
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {path: np.asarray(leaf) for path, leaf in flat.items()}
    if (head := "params/property_head/kernel") in arrays:  # zero in a fresh model
        arrays[head] = np.random.default_rng(0).normal(size=arrays[head].shape).astype("f4")
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
    output = build_model(model.config, vocab_size).apply(model.variables, batch, train=False)
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
    scale = np.exp(model.variables["params"]["cross_head"]["log_scale"])
    np.testing.assert_allclose(scores, scale * cosines, rtol=1e-4, atol=1e-4)


def test_the_best_crystals_for_each_text(model, crystals, texts):
    scores = model.similarity(texts, crystals)
    indices, best = model.rank(texts, crystals, k=3)
    assert indices.shape == best.shape == (NUM_TEST, 3)
    np.testing.assert_array_equal(indices, np.argsort(-scores, axis=1)[:, :3])
    np.testing.assert_array_equal(best, np.take_along_axis(scores, indices, axis=1))
    vectors = model.embed_crystals(crystals)
    one, of_one = model.rank(texts[2], vectors, k=100)
    assert one.shape == of_one.shape == (NUM_TEST,)
    np.testing.assert_array_equal(one[:3], indices[2])
    twice = np.concatenate([vectors, vectors])
    twice[one[0]] = np.nan
    order, found = model.rank(texts[2], twice, k=2 * NUM_TEST)
    assert order[0] == one[0] + NUM_TEST and order[-1] == one[0] and np.isnan(found[-1])
    pairs = [(a, b) for a, b in zip(order[1:-1:2], order[2:-1:2], strict=True)]
    assert all(b == a + NUM_TEST for a, b in pairs), "of equal scores the first comes first"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("salt", "a.cif"), "The crystals must be a list"),
        (("salt", [rock_salt()], 0), "k is 0"),
        (("salt", [rock_salt()], "3"), "k is '3'"),
        (("salt", np.array([None])), "Crystal 0 cannot be used"),
        ((["salt", ""], [rock_salt()]), "Text 1 is empty"),
        (("", [rock_salt()]), "Text 0 is empty"),
        (([], [rock_salt()]), "The list of texts is empty"),
        (("salt", []), "The list of crystals is empty"),
        (("salt", np.zeros((3, 5), np.float32)), r"shape \(3, 5\), and this model's are \(n, 16\)"),
        (("salt", np.zeros(16, np.float32)), r"shape \(16,\)"),
    ],
)
def test_inputs_that_cannot_be_ranked(model, arguments, words):
    with pytest.raises(InputError, match=words):
        model.rank(*arguments)


def test_labels_are_assigned_by_similarity(model, crystals):
    labels, templates = ["an oxide", "a metal", "a salt"], ["{}", "This is {}."]
    found = model.classify(crystals, labels, templates)
    assert found.shape == (NUM_TEST, 3) and found.dtype == np.float32
    sentences = [[template.replace("{}", label) for label in labels] for template in templates]
    mean = np.mean([model.embed_texts(each) for each in sentences], axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    logits = model.scores(mean, model.embed_crystals(crystals)).T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(model.classify(crystals[1], labels, templates), found[1], rtol=1e-4)
    vectors = model.embed_crystals(crystals)
    np.testing.assert_array_equal(model.classify(vectors, labels, templates), found)


def test_crystals_come_in_any_form(model, crystals, tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    crystal = clac_jax.Crystal.from_cif(NACL)
    forms = [crystal, tmp_path / "a.cif", str(tmp_path / "a.cif")]
    forms += [crystal.to_ase(), crystal.to_pymatgen(), NACL]
    forms += [crystal.to_atoms(), crystal.to_pymatgen().as_dict()]
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
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {"graph_encoder__name": "cgcnn", "graph_encoder__max_neighbours": 8},
                {
                    "graph_encoder__name": "orb",
                    "graph_encoder__hidden_features": 16,
                    "graph_encoder__max_neighbours": 8,
                },
                {"graph_encoder__add_composition": True},
                {"text_encoder__config__model_type": "gpt2", "text_encoder__feature": "last"},
            )
        ),
    ],
)
def test_every_kind_of_model_embeds(changes, crystals, texts):
    model = fresh(**changes)
    assert np.isfinite(model.similarity(texts[:2], crystals[:3])).all()
    np.testing.assert_allclose(np.linalg.norm(model.embed_texts(texts[:2]), axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_with_a_critic_the_similarity_is_the_critics(crystals, texts):
    model = fresh(loss__name="jsd", loss__critic="concat")
    batch, vocab_size = one_batch(model.config, crystals, texts)
    clac = build_model(model.config, vocab_size)
    cross = clac.apply(model.variables, batch, train=False).cross
    expected = cross.scores(cross.left[0, :NUM_TEST], cross.right[0, :NUM_TEST]).T
    np.testing.assert_allclose(model.similarity(texts, crystals), expected, atol=1e-5)
    assert not model.is_dot_product
    labels = ["an oxide", "a metal"]
    found = model.classify(crystals, labels, ["{}", "It is {}."])
    worded = (labels, [f"It is {x}." for x in labels])
    mean = np.mean([model.similarity(each, crystals) for each in worded], axis=0).T
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    _, best = model.rank("salt", crystals, k=1)
    assert best[0] == model.similarity(["salt"], crystals).max()


def test_a_property_model_predicts(crystals):
    model = fresh(task="property", property__kind="classification")
    classes = model.predict(crystals)
    assert classes.shape == (NUM_TEST,) and classes.dtype == np.int32
    assert set(classes.tolist()) <= {0, 1, 2}
    with pytest.raises(LoadError, match="embed_texts needs a contrastive model"):
        model.embed_texts(["salt"])
    with pytest.raises(LoadError, match="embed_crystals needs a contrastive model"):
        model.embed_crystals(crystals)
    for name, arguments in (
        ("similarity", (["salt"], crystals)),
        ("rank", ("salt", crystals)),
        ("classify", (crystals, ["a", "b"])),
        ("scores", (np.zeros((1, 2)), np.zeros((1, 2)))),
    ):
        with pytest.raises(LoadError, match=f"{name} needs a contrastive model"):
            getattr(model, name)(*arguments)
    assert (model.dim, model.is_dot_product) == (0, False)
    assert len(model.checksum) == 64
    with_a_gap = model.predict([crystals[0], "no.cif"], on_bad="nan")
    assert with_a_gap.tolist() == [classes[0], -1]


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


def test_a_bad_crystal_among_many_is_named_and_its_row_is_nan(model, crystals, capsys):
    bad = clac_jax.Crystal.from_cif(NACL).to_ase()
    bad.cell[0, 0] = np.nan
    given = [*crystals, bad, "data_x\nloop_\n", "nothing.cif", *crystals]
    vectors = model.embed_crystals((value for value in given), on_bad="nan")
    gaps = np.isnan(vectors).all(axis=1)
    assert np.flatnonzero(gaps).tolist() == [NUM_TEST, NUM_TEST + 1, NUM_TEST + 2]
    np.testing.assert_allclose(
        vectors[~gaps], np.tile(model.embed_crystals(crystals), (2, 1)), atol=1e-5
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for k, line in enumerate(lines, NUM_TEST):
        assert line.startswith(f"warning: Crystal {k} cannot be used: ")
    assert "nothing.cif" in lines[2]
    with pytest.raises(InputError, match=rf"^Crystal {NUM_TEST} cannot be used: .*not finite"):
        model.embed_crystals(given)
    with pytest.raises(InputError, match="on_bad is 'skip'"):
        model.embed_crystals(given, on_bad="skip")


def test_a_long_text_is_cut_off_where_the_model_reads_no_further(model):
    words = "salt " * 10_000
    long, short = model.embed_texts([words, words[:500]])
    np.testing.assert_allclose(long, short, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "The list of crystals is empty"),
        ((k for k in ()), "The list of crystals is empty"),
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
        (["salt", "\ud800"], "Text 1 has half of a character"),
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
        (tmp_path / "nothing", "does not exist.*hf:owner/name"),
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
