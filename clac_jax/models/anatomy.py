"""Which axis of an array belongs to which units of a model: what growing it needs to know.

Each encoder and head declares its own, in its file, as plain text. An array that turns a vector of
hidden units into one of outputs has the axes "hidden -> out": its values are divided among the
copies of a hidden unit, and are equal for the copies of an output. A bias has "-> out".

* ``3 units``: three vectors of these units, one after the other; ``a + b``: two vectors.
* ``heads*width``: one number for each pair.
* ``_``: an axis that never grows.
* ``words``: an axis that grows by rows that older inputs do not use, see `Anatomy.rows`.
* ``~keys`` on the right: units of a query. Their product with the keys is divided by the root of
  their number, so they are divided among copies, and multiplied by the root of the growth.
* ``=hidden``: units that are divided where they are made, so that the copies of one add up to it.
  Maps that have them on the left give all copies the same numbers.
* ``^hidden`` on the right: an embedding that is multiplied by the root of its width, and so divided
  by the root of the growth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

NewRows = Literal["zeros", "mean", "tokens"]

NORM_MEAN = "a layer norm takes the mean over them"


@dataclass(frozen=True)
class Layers:
    """The layers of an encoder, of which more can be added at the end.

    A layer that is added must leave its input as it is: the arrays through which it would act have
    set values at first, mostly 0, and the others are initialized.

    Attributes:
        pattern: regex at the start of an array's name, whose group is the layer's number.
        noun: what a layer is called, in the singular.
        values: regex that matches an array's entire name -> its numbers in a new layer.
        last: regexes of the same kind, for arrays that move from the previous last layer to the
            new one: the affine part of a norm after each layer. The previous one then has those of
            a new layer.
        refusal: why no layer can be added, as a sentence; "" if it can.
    """

    pattern: str
    noun: str
    values: Mapping[str, float] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Anatomy:
    """The units of a model, and where they are in its arrays.

    Attributes:
        axes: regex that matches an array's entire name -> its axes as text; the first match counts.
        output: the units of the result, an axis as text.
        even: units each of which has to get equally many copies -> why, as a sentence.
        fixed: units that cannot be more -> why, as a sentence.
        rows: axis that grows by rows -> the new rows: zeros, the mean of the others, or, for
            tokens, that of the same token if the tokenizers are known, and otherwise the mean.
        sizes: numbers of units that do not follow from the shapes.
        layers: the kinds of layers.
        notes: regex that matches an array's entire name -> what changes nevertheless if it grows.
    """

    axes: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    even: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, NewRows] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[Layers, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def within(self, module: str, **names: str) -> Anatomy:
        """The anatomy of a model that contains this one as a module.

        Args:
            module: name of the module, a slash path.
            **names: units of this anatomy -> the units of the model that they are, as text. The
                others get the module's name as a prefix.
        """

        def moved(text: str) -> str:
            return re.sub(
                r"[A-Za-z]\w*(?:/\w+)*",
                lambda found: names.get(found[0], f"{module}/{found[0]}"),
                text,
            )

        def prefixed(pattern: str) -> str:
            return f"{re.escape(module)}/(?:{pattern})"

        return Anatomy(
            axes={prefixed(pattern): moved(text) for pattern, text in self.axes.items()},
            output=moved(self.output),
            even={moved(units): why for units, why in self.even.items()},
            fixed={moved(units): why for units, why in self.fixed.items()},
            rows={moved(units): kind for units, kind in self.rows.items()},
            sizes={moved(units): size for units, size in self.sizes.items()},
            layers=tuple(
                replace(
                    each,
                    pattern=prefixed(each.pattern),
                    values={prefixed(rule): value for rule, value in each.values.items()},
                    last=tuple(map(prefixed, each.last)),
                )
                for each in self.layers
            ),
            notes={prefixed(pattern): note for pattern, note in self.notes.items()},
        )

    def joined(self, *others: Anatomy) -> Anatomy:
        """This anatomy and those of other modules of the same model; the output is this one's."""
        parts = (self, *others)
        return Anatomy(
            axes={pattern: text for part in parts for pattern, text in part.axes.items()},
            output=self.output,
            even={units: why for part in parts for units, why in part.even.items()},
            fixed={units: why for part in parts for units, why in part.fixed.items()},
            rows={units: kind for part in parts for units, kind in part.rows.items()},
            sizes={units: size for part in parts for units, size in part.sizes.items()},
            layers=tuple(layers for part in parts for layers in part.layers),
            notes={pattern: note for part in parts for pattern, note in part.notes.items()},
        )


def dense_axes(name: str, text: str) -> dict[str, str]:
    """The axes of a linear map: its kernel has those of the text, its bias those after the arrow.

    Args:
        name: regex for the name of the module.
        text: "inputs -> outputs".
    """
    outputs = text.split("->")[1].strip()
    return {f"(?:{name})/kernel": text, f"(?:{name})/bias": f"-> {outputs}"}


def adapted_axes(name: str, text: str) -> dict[str, str]:
    """As `dense_axes`, for a linear map that may have an adapter (LoRA)."""
    inputs, outputs = (side.strip() for side in text.split("->"))
    return {
        **dense_axes(name, text),
        f"(?:{name})/lora_a": f"{inputs} -> _",
        f"(?:{name})/lora_b": f"_ -> {outputs}",
    }


def norm_axes(name: str, units: str) -> dict[str, str]:
    """The axes of a normalization over these units: its parameters and its running averages."""
    return {f"(?:{name})/(?:scale|bias|mean|var)": f"-> {units}"}
