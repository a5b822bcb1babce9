"""The model card, README.md, of a published model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clac_jax.checkpoint.averages import describe_weights
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.inference.measures import Measures

LICENSES = {"materials_project_mini": "cc-by-4.0"}
"""Data set -> licence of its content, as the Hub abbreviates it; others: the user's to say."""

_RETRIEVAL = re.compile(r"(text_to_crystal|crystal_to_text)_top(\d+)(_no_formula)?")
_PREDICTION = ("test_mae", "test_accuracy", "val_mae", "val_accuracy")
_ATTRIBUTION = (
    "Crystals and properties of the training data are from the Materials Project (CC-BY-4.0; "
    "A. Jain et al., APL Materials 1, 011002, 2013); its texts were written from computed facts. "
    "The licence requires attribution."
)


@dataclass(frozen=True)
class Card:
    """The content of a card.

    Attributes:
        name: name of the model.
        info: description of its checkpoint.
        measures: its figures.
        license: licence, as the Hub abbreviates it ("cc-by-4.0", "unknown").
        load: argument of `clac_jax.load` in the example.
        remarks: paragraphs before "Use".
        proof: the section on the proof of its run; "" without one.
    """

    name: str
    info: CheckpointInfo
    measures: Measures
    license: str
    load: str = "FOLDER"
    remarks: tuple[str, ...] = ()
    proof: str = ""

    def text(self) -> str:
        """The card as Markdown with YAML front matter."""
        parts = [f"---\n{self._front_matter().strip()}\n---", f"# {self.name}", self._what()]
        parts += [*self.remarks, self._use(), self._figures(), self._origin(), self.proof]
        return "\n\n".join(part for part in parts if part) + "\n"

    @property
    def _config(self) -> Mapping[str, Any]:
        return self.info.config

    @property
    def _data(self) -> str:
        return str(self._config["dataset"]["name"])

    def _front_matter(self) -> str:
        from huggingface_hub import EvalResult, ModelCardData  # takes half a second

        results = [
            EvalResult(
                task_type=task,
                task_name=words,
                dataset_type=self._data,
                dataset_name=self._data,
                dataset_split=self.measures.split,
                metric_type=metric,
                metric_name=name,
                metric_value=round(float(value), 6),
            )
            for task, words, metric, name, value in self._results()
        ]
        data = ModelCardData(
            library_name="clac-jax",
            license=self.license,
            datasets=[self._data],
            tags=["materials-science", "crystals", "contrastive-learning", "jax"],
            model_name=self.name,
            eval_results=results or None,
        )
        return str(data.to_yaml())

    def _results(self) -> list[tuple[str, str, str, str, float]]:
        """(task, its name, metric, its name, value) of each figure for the model index."""
        found = []
        pool = self.measures.values.get("pool_size")
        of = f" of {pool:.0f}" if pool else ""
        for name, value in self.measures.values.items():
            if shown := _RETRIEVAL.fullmatch(name):
                direction = shown[1].replace("_", " ")
                plain = ", texts without formulas" if shown[3] else ""
                words = f"{direction}, top-{shown[2]}{of}{plain}"
                found.append(("retrieval", "Retrieval", name, words, value))
            elif name in _PREDICTION:
                task = f"Prediction of {self._config['property']['name']}"
                found.append(("tabular-regression", task, name, name, value))
        return found

    def _what(self) -> str:
        config = self._config
        graphs = config["graph_encoder"]["name"]
        if config["task"] == "property":
            return (
                f"Predicts the {config['property']['name']} of a crystal ({graphs} graph encoder). "
                "Made with clac-jax."
            )
        pretrained = config["text_encoder"]["pretrained"]
        texts = f"from {pretrained}" if pretrained else "trained from random values"
        return (
            "Embeds crystals and texts in one space, so that crystals are found by words: a "
            f"{graphs} graph encoder and a text encoder {texts}, {config['projection_dim']} "
            "dimensions. Made with clac-jax, a JAX implementation of CLaC (arXiv:2502.16451)."
        )

    def _use(self) -> str:
        if self._config["task"] == "property":
            lines = 'print(model.predict(["a.cif"]))'
        else:
            lines = 'print(model.rank("a layered oxide", ["a.cif", "b.cif"], k=1))'
        return (
            "## Use\n\n```python\nimport clac_jax  # pip install clac-jax\n\n"
            f'model = clac_jax.load("{self.load}")\n{lines}\n```'
        )

    def _figures(self) -> str:
        if not self.measures.values:
            return ""
        rows = [f"| {name} | {value:.4g} |" for name, value in sorted(self.measures.values.items())]
        intro = f"On the {self.measures.split} split of {self._data}; see also `eval.json`."
        return "\n".join(
            ["## Figures", "", intro, "", "| measure | value |", "| --- | --- |", *rows]
        )

    def _origin(self) -> str:
        info, config = self.info, self._config
        versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
        lines = [
            "## Training",
            "",
            f"- Data: {self._data}, {info.num_train_examples:,} training examples",
            f"- Steps: {info.step:,}, batches of {config['batch_size']}, seed {config['seed']}",
            f"- Weights: {describe_weights(info)}",
            f"- Versions: {versions or 'unknown'}",
            "- Everything else: `config.json`",
        ]
        if self._data in LICENSES:
            lines += ["", _ATTRIBUTION]
        return "\n".join(lines)
