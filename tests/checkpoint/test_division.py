"""Who saves which shards."""

from helpers.divided_states import ARRAYS, arrays_at, shapes_among

from clac_jax.checkpoint.division import divide, is_sharded, num_bytes, spans_processes


def test_every_shard_has_one_owner_which_has_it_on_its_devices():
    division = divide(shapes_among(2, devices=4))
    assert list(division) == list(ARRAYS), "in the order of the state"
    for path, (shape, axis) in ARRAYS.items():
        divided = division[path]
        assert divided.shape == shape
        assert divided.owners == ((0, 0, 1, 1) if axis is not None else divided.owners)
        assert len(divided.owners) == len(divided.grid) == (4 if axis is not None else 1)
        assert sorted(divided.owned_by(0) + divided.owned_by(1)) == list(range(len(divided.grid)))


def test_replicated_arrays_are_divided_by_size():
    shapes = shapes_among(2)
    for number in range(6):
        shapes[f"params/more/{number}"] = type(shapes["step"])(
            shape=(1_000_000 * (number + 1),), dtype=arrays_at(0)["step"].dtype, sharding=None
        )
    loads = [0, 0]
    for divided in divide(shapes).values():
        for owner in divided.owners:
            loads[owner] += num_bytes(divided.grid.shard_shape, divided.dtype)
    assert abs(loads[0] - loads[1]) < 0.1 * sum(loads)
    assert divide(shapes)["step"].owners == (0,), "small ones are together"


def test_a_state_without_shards_belongs_to_the_process_that_saves_it():
    shapes = {
        path: type(leaf)(shape=leaf.shape, dtype=leaf.dtype, sharding=None)
        for path, leaf in shapes_among(1).items()
    }
    assert not is_sharded(shapes) and not spans_processes(shapes)
    assert {divided.owners for divided in divide(shapes).values()} == {(0,)}


def test_a_state_may_span_processes():
    assert is_sharded(shapes_among(1, devices=2)) and not spans_processes(shapes_among(1, 2))
    assert spans_processes(shapes_among(2))
