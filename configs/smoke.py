"""Trains in seconds: a tiny model on a slice of the embedded crystals, used by the tests."""

import ml_collections

from clac_jax.config.shipped import shipped_config


def get_config() -> ml_collections.ConfigDict:
    config = shipped_config("base")
    config.max_epochs = 2
    config.batch_size = 4
    config.eval_batch_size = 16
    config.log_every_n_steps = 1
    config.dataset.max_examples = 32
    config.warmup_steps = 2
    config.projection_dim = 16
    config.use_visual_intramodal_loss = True
    config.use_textual_intramodal_loss = True
    config.graph_encoder.add_composition = False
    config.graph_encoder.add_descriptors = False
    config.structure_weight = 0.0
    config.augment.hide_elements_prob = 0.0
    config.augment.statement_prob = 0.0
    config.augment.sentence_keep_prob = 0.5
    config.graph_encoder.num_features = 16
    config.graph_encoder.num_interactions = 1
    config.graph_encoder.out_dim = 16
    config.graph_encoder.cutoff = 4.0
    config.text_encoder.pretrained = None
    config.text_encoder.num_layers = None
    config.text_encoder.feed_forward_units = None
    config.text_encoder.numbers_at = ()
    # Of an encoder that starts at random, the layers are trained, more slowly than the rest.
    config.frozen = (
        r"text_encoder/(word|position|type)_embedding/.*",
        r"text_encoder/embedding_norm/.*",
    )
    config.optimizer.learning_rate_factors = ((r"text_encoder/(?!pooling).*", 0.1),)
    config.text_encoder.add_compositions = False
    config.text_encoder.max_length = 32
    config.text_encoder.config.hidden_size = 16
    config.text_encoder.config.num_hidden_layers = 1
    config.text_encoder.config.num_attention_heads = 2
    config.text_encoder.config.intermediate_size = 32
    config.text_encoder.config.max_position_embeddings = 64
    return config
