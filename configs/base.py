"""The embedded run: 5,000 real crystals, a small PaiNN and MiniLM; takes minutes on a laptop."""

import ml_collections

from clac_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.max_epochs = 6
    config.batch_size = 128
    config.learning_rate = 2.2e-3
    config.schedule = "cosine"
    config.warmup_steps = 20
    config.gradient_clip = 1.0
    config.weight_decay = 0.01
    config.replace_formula_prob = 0.3
    # The time saved here is spent on more epochs, which help more: docs/performance-notes.md.
    config.use_visual_intramodal_loss = False
    config.use_textual_intramodal_loss = False
    config.projection_dim = 256

    config.graph_encoder.num_features = 128
    config.graph_encoder.num_interactions = 3
    config.graph_encoder.out_dim = 256
    config.graph_encoder.add_composition = True
    # Symmetry, cell and sites, computed. Without them, and without a loss that asks the joint space
    # for them, hardly more than the composition is learned: docs/performance-notes.md.
    config.graph_encoder.add_descriptors = True
    config.structure_weight = 1.0
    config.augment.hide_elements_prob = 0.25

    config.text_encoder.pretrained = "minilm"
    # One of MiniLM's six layers, a third of its perceptron, and none of it trained: what it lacks,
    # numbers and compositions, is added after it. The time that this saves is spent on more epochs.
    config.text_encoder.num_layers = 1
    config.text_encoder.feed_forward_units = 512
    config.text_encoder.max_length = 256
    config.text_encoder.numbers_at = (1,)
    config.text_encoder.add_compositions = True
    config.text_encoder.feature = "attention"
    config.text_encoder.dropout = 0.0
    config.augment.mask_prob = 0.0
    # With the statements of the training crystals, the question lists are learned; with 0, they
    # would be a zero-shot task.
    config.augment.statement_prob = 0.15
    config.augment.drop_in_single_text_view = True
    config.augment.sentence_keep_prob = 0.6
    config.input.group_by = "elements"
    config.frozen = (
        r"text_encoder/(word|position|type)_embedding/.*",
        r"text_encoder/embedding_norm/.*",
        r"text_encoder/layer_.*",
    )
    return config
