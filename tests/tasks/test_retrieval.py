"""The evaluation of a contrastive model: unit vectors in the order of the split, no padding."""

import jax
import numpy as np
import optax
import pytest
from helpers.small_models import batch_of, examples, random_variables, small_config

from clac_jax.input_pipeline.packing import stacked
from clac_jax.models import build_model
from clac_jax.tasks.retrieval import Evaluator, make_eval_step
from clac_jax.training.losses import LossOptions
from clac_jax.training.parallel import Pmap
from clac_jax.training.state import create_train_state


@pytest.fixture(scope="module")
def setup():
    config = small_config(use_visual_intramodal_loss=False, use_textual_intramodal_loss=False)
    views = examples(num_views=1)
    model = build_model(config, vocab_size=100)
    variables = random_variables(model, batch_of(views, num_views=1))
    state = create_train_state(model.apply, variables, optax.identity(), seed=0)
    return model, state, views


def test_projections_have_length_one(setup):
    _, state, views = setup
    step = jax.jit(make_eval_step(LossOptions(), axis_name=None))
    embedded = step(state, batch_of(views, num_views=1))
    assert embedded.crystals.shape[:2] == (1, len(views))
    for vectors in (embedded.crystals, embedded.texts):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-5)


def test_scores_come_in_the_order_of_the_split_whatever_the_batches(setup):
    model, state, views = setup
    parallel = Pmap()
    devices = parallel.put(state)
    evaluate = Evaluator(model, LossOptions(), parallel)

    def evaluated(*groups):
        batches = [stacked([batch_of(group, num_examples=3, num_views=1)]) for group in groups]
        return evaluate(devices, batches)

    together = evaluated(views)
    assert together.similarity.shape == (3, 3)
    apart = evaluated([views[2]], [views[1], views[0]])
    np.testing.assert_allclose(apart.similarity, together.similarity, rtol=1e-5, atol=1e-5)
    names = ("text_to_crystal_top1", "crystal_to_text_top1")
    assert [apart.metrics[n] for n in names] == [together.metrics[n] for n in names]
