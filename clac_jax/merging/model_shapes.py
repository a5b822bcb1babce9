"""Names and shapes of the arrays of a run, from its config only."""

from __future__ import annotations

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from clac_jax.checkpoint.tree import to_arrays
from clac_jax.datasets.record import Record
from clac_jax.files.huggingface import resolve_folder
from clac_jax.input_pipeline.batch import Batch, BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.input_pipeline.splits import Splits
from clac_jax.input_pipeline.views import ViewOptions, train_views, view_options
from clac_jax.models import abstract_variables, build_model
from clac_jax.models.encoders import build_graph_encoder, encoder_needs
from clac_jax.models.property_model import PropertyModel
from clac_jax.run_parts import make_template
from clac_jax.text.sentences import Tokenizer

_WORDS = "Sodium chloride is a wide band gap insulator. It has the rock salt structure."


def shapes_of_config(config: ml_collections.ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Slash path -> shape and dtype of every array of the state of a run.

    The data set is not opened, except for the number of classes of a property that is classified;
    the files of the tokenizer and the config.json of a pretrained text encoder are read.

    Args:
        config: the run's config, complete and checked.

    Raises:
        UserError: the model, the tokenizer or the language model cannot be used.
    """
    options = view_options(config, encoder_needs(config))
    tokenizer = Tokenizer.from_folder(resolve_folder(config.text_encoder.tokenizer))
    if config.task == "property":
        classes = 1
        if config.property.kind != "regression":
            classes = Splits(config.dataset, options.label).num_classes()
        model: nn.Module = PropertyModel(build_graph_encoder(config), classes)
    else:
        model = build_model(config, tokenizer.vocab_size)
    abstract = abstract_variables(model, _example(options, tokenizer))
    _, template = make_template(config, model, abstract)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in to_arrays(template).items()
    }


def _example(options: ViewOptions, tokenizer: Tokenizer) -> Batch:
    """A batch of one made-up example, with all inputs of the model."""
    record = Record(
        "rock salt",
        lattice=5.64 * np.eye(3),
        atomic_numbers=np.array([11, 17], np.int32),
        positions=np.array([[0.0, 0.0, 0.0], [2.82, 2.82, 2.82]]),
        formula="NaCl",
        gpt_text=_WORDS,
        text=((_WORDS,),),
        properties={options.label: 0.0} if options.label else {},
    )
    views = train_views(record, 0, 0, 0, options, tokenizer)
    return collate([views], _shape_of(views))


def _shape_of(views: ExampleViews) -> BatchShape:
    atoms = max(len(graph.atomic_numbers) for graph in views.graphs)
    tokens = max(1, *(len(each.ids) for each in views.tokens))
    return BatchShape(
        num_examples=1,
        graph_views=len(views.graphs),
        text_views=len(views.tokens),
        node_tiles=((atoms, len(views.graphs)),),
        num_edges=max(1, sum(len(graph.senders) for graph in views.graphs)),
        token_tiles=((tokens, len(views.tokens)),),
        present=views.present,
    )
