"""Transforms of arrays: shapes, inverses, texts, errors, and what becomes of Adam's moments."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.surgery.moving import Fuse, Reshape, Split, Stack, Transpose, Unstack
from clac_jax.surgery.resizing import Cut, Interpolate, Merge, Pad, Repeat, Scale
from clac_jax.surgery.transforms import TRANSFORMS, Chain, TransformError, parse


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@st.composite
def cases(draw):
    """(transform, sources, shapes in the model) that fit each other, of every kind."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size, place = shape[axis], axis % len(shape)
    number = draw(st.integers(1, 3))
    power = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    single = (numbers(*shape),)

    def resized(length):
        return ((*shape[:place], length, *shape[place + 1 :]),)

    def several(count):
        return tuple(numbers(*shape, seed=k) for k in range(count))

    return draw(
        st.sampled_from(
            [
                (Transpose(tuple(draw(st.permutations(range(len(shape)))))), single, (None,)),
                (Transpose(), single, (None,)),
                (Reshape((-1,)), single, (None,)),
                (Reshape(), single, ((1, single[0].size),)),
                (Pad(axis, number), single, (None,)),
                (Pad(axis), single, resized(size + number)),
                (Cut(axis, size - 1), single, (None,)),
                (Cut(axis), single, resized(1)),
                (Repeat(axis, number, power), single, (None,)),
                (Merge(axis, size, power), single, (None,)),
                (Scale(0.25), single, (None,)),
                (Interpolate(axis, number), single, (None,)),
                (Interpolate(axis), single, resized(size + number)),
                (Stack(axis), several(number), (None,)),
                (Unstack(axis), single, (None,) * size),
                (Fuse(axis), several(number), (None,)),
                (Split(axis, size), single, (None,) * size),
                (Split(axis, (size,)), single, (None,)),
                (Chain((Transpose(), Stack(0))), several(number), (None,)),
                (Chain((Repeat(axis, number), Unstack(axis))), single, (None,) * size * number),
            ]
        )
    )


@given(cases())
def test_shapes_are_those_of_the_results_and_a_text_reads_as_the_transform(case):
    transform, sources, targets = case
    copies = [source.copy() for source in sources]
    results = transform.apply(sources, targets, None)
    shapes = transform.shapes(tuple(source.shape for source in sources), targets)
    assert tuple(result.shape for result in results) == shapes
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
    assert parse(str(transform)) == transform
    for source, copy in zip(sources, copies, strict=True):
        np.testing.assert_array_equal(source, copy)


@given(cases())
def test_the_inverse_gives_back_the_arrays(case):
    transform, sources, targets = case
    inverse = transform.inverse()
    if inverse is None or isinstance(transform, Merge):  # entries that differ are lost
        return
    results = transform.apply(sources, targets, None)
    before = tuple(source.shape for source in sources)
    if isinstance(transform, Cut):
        results = transform.apply(inverse.apply(results, before, None), targets, None)
        sources = transform.apply(sources, targets, None)
    else:
        results = inverse.apply(results, before, None)
    for source, result in zip(sources, results, strict=True):
        np.testing.assert_allclose(result, source, rtol=3e-7)
        assert result.dtype == source.dtype


def test_only_a_number_that_is_divided_is_rounded_on_the_way_back():
    source = (numbers(3, 4),)
    for transform in (Transpose(), Repeat(0, 3), Pad(1, 2), Scale(0.5), Repeat(1, 4, 1.0)):
        result = transform.inverse().apply(transform.apply(source, (None,), None), (None,), None)
        np.testing.assert_array_equal(result[0], source[0])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_dtype_stays_what_it_is(dtype):
    source = numbers(4, 2, dtype=dtype)
    for text in (
        "repeat(0, 2, 1.0)",
        "merge(0, 2)",
        "pad(0, 2)",
        "interpolate(0, 7)",
        "scale(0.5)",
    ):
        (result,) = parse(text).apply([source], (None,), None)
        assert result.dtype == source.dtype
        assert np.isfinite(result.astype(np.float64)).all()


def test_positions_are_interpolated_between_the_ends():
    table = np.float32([[0.0, 10.0], [1.0, 20.0], [4.0, 0.0]])
    (longer,) = parse("interpolate(0)").apply([table], ((5, 2),), None)
    np.testing.assert_allclose(longer, [[0, 10], [0.5, 15], [1, 20], [2.5, 10], [4, 0]])
    (same,) = parse("interpolate(0)").apply([table], ((3, 2),), None)
    np.testing.assert_array_equal(same, table)
    (first,) = parse("interpolate(0, 1)").apply([table], (None,), None)
    np.testing.assert_array_equal(first, table[:1])


def test_query_key_and_value_of_torch_become_one_kernel_of_flax_and_back():
    parts = [numbers(4, 6, seed=k) for k in range(3)]
    transform = parse("transpose(1, 0) | fuse(1)")
    (kernel,) = transform.apply(parts, ((6, 12),), None)
    np.testing.assert_array_equal(kernel, np.concatenate(parts).T)
    back = transform.inverse().apply([kernel], tuple(part.shape for part in parts), None)
    for part, result in zip(parts, back, strict=True):
        np.testing.assert_array_equal(result, part)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of the form"),
        ("transpose", "not of the form"),
        ("transpose(1, 0) + stack(0)", "not of the form"),
        ("stack(axis=0)", "not of the form"),
        ("os.remove('a')", "not of the form"),
        ("remove(0)", "there is no transform remove"),
        ("stack(__import__('os'))", "not plain numbers"),
        ("stack('a')", "its arguments are integers"),
        ("stack(True)", "its arguments are integers"),
        ("split(0, 3, 4)", "as in split(1, 3)"),
        ("split(0, 0)", "at least 1"),
        ("repeat(0)", "as in repeat(0, 2)"),
        ("repeat(0, 0)", "at least 1"),
        ("scale(0)", "other than 0"),
        ("pad()", "as in pad(0)"),
        ("pad(0, -1)", "at least 0"),
        ("interpolate(0, 0)", "at least 1"),
        ("(" * 400, "not of the form"),
    ],
)
def test_a_text_that_cannot_be_read_is_quoted_with_what_there_is(text, reason):
    with pytest.raises(TransformError) as caught:
        parse(text)
    assert reason in str(caught.value) and "Use one of transpose(1, 0)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shapes", "targets", "reason"),
    [
        ("transpose(1, 0)", [(2, 3, 4)], [None], "not the axes of an array of shape (2, 3, 4)"),
        ("reshape(5, -1)", [(2, 3)], [None], "do not fill"),
        ("reshape()", [(2, 3)], [None], "not known"),
        ("pad(2)", [(2, 3)], [(2, 3)], "has no axis 2"),
        ("pad(0)", [(4, 3)], [(2, 3)], "cannot shorten"),
        ("pad(0)", [(4, 3)], [None], "not known between two transforms"),
        ("pad(0)", [(4, 3)], [(4, 3, 1)], "the model's array has shape (4, 3, 1)"),
        ("cut(0)", [(2, 3)], [(4, 3)], "cannot lengthen"),
        ("cut(0)", [(2, 3)], [(0, 3)], "nothing would be left"),
        ("cut(0, 2)", [(2, 3)], [None], "nothing would be left"),
        ("cut(0, 5)", [(2, 3)], [None], "nothing would be left"),
        ("merge(0, 2)", [(3, 3)], [None], "not a multiple of 2"),
        ("interpolate(0)", [()], [(3,)], "has no axis 0"),
        ("stack(0)", [(2, 3), (2, 4)], [None], "different shapes"),
        ("stack(3)", [(2, 3), (2, 3)], [None], "has no axis 3"),
        ("fuse(0)", [(2, 3), (2, 4)], [None], "differ in more than axis 0"),
        ("fuse(0)", [(2, 3), (2, 3, 1)], [None], "differ in more than axis 0"),
        ("unstack(0)", [(2, 3), (2, 3)], [None], "takes one array"),
        ("split(0, 2)", [(3, 3)], [None, None], "is not 2 equal parts"),
        ("split(0, (1, 1))", [(3, 3)], [None, None], "do not add up to 3"),
        ("split(0)", [(3, 3)], [(1, 3), (1, 3)], "do not add up to 3"),
        ("split(0)", [()], [(1, 3)], "has no axis 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_shapes_and_by_apply(text, shapes, targets, reason):
    transform = parse(text)
    with pytest.raises(ValueError) as caught:
        transform.shapes(tuple(shapes), tuple(targets))
    assert reason in str(caught.value)
    with pytest.raises(ValueError) as caught:
        transform.apply([np.zeros(shape, np.float32) for shape in shapes], tuple(targets), None)
    assert reason in str(caught.value)


def test_every_transform_has_an_example_and_a_meaning():
    for name, kind in TRANSFORMS.items():
        assert kind.meaning and parse(kind.example).name == name


# Adam's moments: a training of the saved numbers w, at each step of which the model of the new
# numbers T w computes the same, has gradients from which both models' moments follow.

DECAYS = {1: 0.9, 2: 0.999}


def moment(gradients, order):
    total = np.zeros_like(gradients[0], np.float64)
    for gradient in gradients:
        total = DECAYS[order] * total + (1 - DECAYS[order]) * gradient.astype(np.float64) ** order
    return total


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("text", ["transpose(1, 0)", "reshape(-1)", "scale(4.0)"])
def test_moments_follow_the_numbers(text, order):
    """Where T is invertible, the new gradients are the transposed inverse of T times the old."""
    transform = parse(text)
    old = [numbers(3, 4, seed=k) for k in range(5)]

    def apply(kind, array):
        return kind.apply([array], (None,), None)[0]

    size = old[0].size
    matrix = np.stack(
        [apply(transform, unit.reshape(3, 4)).ravel() for unit in np.eye(size)], axis=1
    )
    new = [np.linalg.solve(matrix.T, gradient.ravel()) for gradient in old]
    expected = moment(new, order)
    found = apply(transform.of_moment(order), moment(old, order)).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_moments_of_copied_units_are_those_of_the_wider_network(copies, order):
    """y = tanh(x A) B: each hidden unit several times, its outgoing weights divided."""
    x, errors = numbers(6, 3, seed=8, dtype=float), numbers(6, 2, seed=9, dtype=float)
    into, out = Repeat(1, copies), Repeat(0, copies, 1.0)
    old, new = ([], []), ([], [])
    for step in range(4):
        a, b = numbers(3, 4, seed=step, dtype=float), numbers(4, 2, seed=50 + step, dtype=float)
        wide = into.apply([a], (None,), None)[0], out.apply([b], (None,), None)[0]
        results = []
        for (first, second), gradients in (((a, b), old), (wide, new)):
            hidden = np.tanh(x @ first)
            results.append(hidden @ second)
            gradients[0].append(x.T @ (errors @ second.T * (1 - hidden**2)))
            gradients[1].append(hidden.T @ errors)
        np.testing.assert_allclose(results[1], results[0], rtol=1e-12)
    for transform, before, after in zip((into, out), old, new, strict=True):
        found = transform.of_moment(order).apply([moment(before, order)], (None,), None)[0]
        np.testing.assert_allclose(found, moment(after, order), rtol=1e-12)
        back = transform.inverse().of_moment(order).apply([found], (None,), None)[0]
        np.testing.assert_allclose(back, moment(before, order), rtol=1e-12)


@pytest.mark.parametrize("text", ["pad(0)", "interpolate(0)", "transpose(1, 0) | pad(0)"])
def test_moments_of_numbers_without_a_past_start_over(text):
    assert parse(text).of_moment(1) is None
    assert parse(text).of_moment(2) is None


def test_numbers_that_are_kept_or_moved_between_arrays_keep_their_moments():
    for text in ("cut(0)", "stack(0)", "unstack(1)", "fuse(0)", "split(0, 2)"):
        assert parse(text).of_moment(1) == parse(text).of_moment(2) == parse(text)
