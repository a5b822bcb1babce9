"""Config keys for the data, its views and the input pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clac_jax.config.effects import NEXT_EXAMPLE, OTHER_EXAMPLES, PLAIN, SAME_EXAMPLES, SAME_NUMBERS
from clac_jax.config.key import key
from clac_jax.errors import one_line


def wrong_numbers(numbers: Any) -> str:
    """The problem with a tuple of example numbers; "" if it is valid."""
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            return f"It has {one_line(repr(number))}. Give numbers of examples, 0 or more."
    return ""


@dataclass(frozen=True)
class Dataset:
    """The config group `config.dataset`."""

    name: str = key(
        "materials_project_mini",
        "the data set: the bundled one; or, read from `path`, gpt_narratives for crystals and "
        "texts of your own, or jarvis_dft_3d for the JARVIS-DFT file",
        on_change=OTHER_EXAMPLES,
        validation="data",
    )
    data_dir: str = key(
        "data",
        "folder of the prepared data sets",
        is_path=True,
        local_only="data sets are prepared there and then read at random",
        on_change=SAME_EXAMPLES,
        per_process=True,
    )
    path: str | None = key(
        None,
        "file, folder of CIF files or URL with the crystals and texts",
        kind=str,
        is_path=True,
        per_process=True,
        used_with="dataset.name=gpt_narratives,jarvis_dft_3d",
        on_change=OTHER_EXAMPLES,
        validation="data",
    )
    on_bad_row: str = key(
        "error",
        "a row that cannot be used stops the run, or is skipped and listed by name",
        choices=("error", "skip"),
        on_change=SAME_EXAMPLES,
    )
    on_formula_mismatch: str = key(
        "refuse",
        "what happens to a CIF whose atoms are not those of its formula sum",
        choices=("refuse", "take"),
        on_change=SAME_EXAMPLES,
    )
    split_by: str = key(
        "row",
        "rows are split at random, or so that no formula is in two splits",
        choices=("row", "formula"),
        used_with="dataset.name=gpt_narratives,jarvis_dft_3d",
        on_change=OTHER_EXAMPLES,
        validation="data",
    )
    text_source: str = key(
        "narratives",
        "which texts of a crystal are used",
        choices=("narratives", "papers"),
        on_change="other texts of the crystals",
        validation="model",
    )
    max_examples: int = key(
        0,
        "uses only the first examples of each split, this many; 0 uses all",
        low=0,
        on_change=OTHER_EXAMPLES,
        validation="data",
    )
    skip: tuple[int, ...] = key(
        (),
        "training examples that are left out, by their index in the split (from 0): their slots "
        "in the batches stay empty, and all other examples stay where they are",
        check=wrong_numbers,
        on_change=NEXT_EXAMPLE,
    )


@dataclass(frozen=True)
class Augment:
    """The config group `config.augment`."""

    perturb_law: str = key(
        "bounded",
        "how atoms are displaced: by at most a share of the shortest distance, or as the "
        "reference does (legacy)",
        choices=("bounded", "legacy"),
        on_change=NEXT_EXAMPLE,
    )
    strain_law: str = key(
        "axial",
        "how the cell is strained: along each axis (as the reference does), alike in all "
        "directions, or with shear",
        choices=("axial", "isotropic", "shear"),
        on_change=NEXT_EXAMPLE,
    )
    max_strain: float = key(
        0.05, "largest expansion of a view's cell", low=0.0, high=1.0, on_change=NEXT_EXAMPLE
    )
    max_compression: float = key(
        0.0, "largest compression of a view's cell", low=0.0, high=0.5, on_change=NEXT_EXAMPLE
    )
    sentence_keep_prob: float = key(
        0.5,
        "probability that a sentence stays in a view of a text",
        low=0.0,
        high=1.0,
        on_change=NEXT_EXAMPLE,
    )
    drop_in_single_text_view: bool = key(
        False,
        "whether the text drops and shuffles sentences too where there is only one view of it",
        used_with="use_textual_intramodal_loss=False",
        on_change=NEXT_EXAMPLE,
    )
    hide_elements_prob: float = key(
        0.0,
        "probability that the elements of an example are hidden, in its crystal and its texts, so "
        "that only structure distinguishes it from others whose elements are hidden",
        low=0.0,
        high=1.0,
        used_with="task=contrastive",
        on_change=NEXT_EXAMPLE,
    )
    hide_composition_prob: float = key(
        0.0,
        "probability that the composition stated in a text is withheld from the text encoder, "
        "which then has to learn words such as 'sulfide' from the tokens",
        low=0.0,
        high=1.0,
        used_with="text_encoder.add_compositions=True",
        on_change=NEXT_EXAMPLE,
    )
    short_text_prob: float = key(
        0.0,
        "probability that a text whose sentences are dropped keeps only one or two of them, which "
        "makes it as short as a query",
        low=0.0,
        high=1.0,
        used_with="task=contrastive",
        on_change=NEXT_EXAMPLE,
    )
    statement_prob: float = key(
        0.0,
        "probability that a text consists of the true statements of the example's question lists "
        "instead of its narrative; with it, the question lists are no longer a zero-shot task",
        low=0.0,
        high=1.0,
        used_with="task=contrastive",
        on_change=NEXT_EXAMPLE,
    )
    mask_prob: float = key(
        0.15, "probability that a token is masked", low=0.0, high=1.0, on_change=NEXT_EXAMPLE
    )


@dataclass(frozen=True)
class Input:
    """The config group `config.input`."""

    group_by: str = key(
        "none",
        "none shuffles every epoch freely; formula puts the polymorphs of a compound side by side, "
        "so that only structure tells the crystals of a batch apart; elements does so with all "
        "crystals of one set of elements",
        choices=("none", "formula", "elements"),
        on_change="the examples come in another order",
    )
    num_threads: int = key(
        2, "threads that prepare examples", low=0, on_change=PLAIN, per_process=True
    )
    prefetch: int = key(8, "batches prepared ahead", low=0, on_change=PLAIN, per_process=True)
    max_batch_shapes: int = key(
        3,
        "shapes that batches are padded to; each one more is compiled, and saves padding",
        low=1,
        high=4,
        on_change=SAME_NUMBERS,
    )
