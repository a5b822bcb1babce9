"""Files and folders of other programs as sources: names, shapes, numbers, and what is refused."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.states import begin, changed, make_params, make_state
from helpers.torch_writer import save
from safetensors.numpy import save_file

from clac_jax.checkpoint.foreign import open_foreign
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.errors import UserError


def tensors():
    return {
        "enc.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "enc.0.bias": np.arange(2, dtype=np.float32),
        "bn.running_mean": np.ones(4, np.float32),
        "bn.num_batches_tracked": np.array(3, np.int64),
    }


def write(tmp_path, kind):
    if kind == "safetensors":
        save_file(tensors(), tmp_path / "net.safetensors")
        return tmp_path / "net.safetensors"
    if kind == "folder":
        save_file(tensors(), tmp_path / "model.safetensors")
        return tmp_path
    save({"state_dict": tensors(), "epoch": 3}, tmp_path / "net.ckpt")
    return tmp_path / "net.ckpt"


@pytest.mark.parametrize("kind", ["safetensors", "folder", "ckpt"])
def test_tensors_by_name(tmp_path, kind):
    source = open_foreign(str(write(tmp_path, kind)))
    assert {path: leaf.shape for path, leaf in source.leaves.items()} == {
        "params/enc/0/weight": (2, 3),
        "params/enc/0/bias": (2,),
        "batch_stats/bn/running_mean": (4,),
        "buffers/bn/num_batches_tracked": (),
    }
    read = source.read(["params/enc/0/weight"])
    np.testing.assert_array_equal(read["params/enc/0/weight"], tensors()["enc.0.weight"])


def test_any_tree_of_orbax(tmp_path):
    tree = {"params": {"layers": [{"w": np.ones((2, 3))}, {"w": np.zeros((2, 3))}]}, "step": 4}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "tree", args=ocp.args.PyTreeSave(tree))
    source = open_foreign(str(tmp_path / "tree"))
    assert source.leaves["params/layers/1/w"].shape == (2, 3)
    read = source.read(["params/layers/0/w"])
    np.testing.assert_array_equal(read["params/layers/0/w"], np.ones((2, 3)))


def test_a_run_starts_from_a_linear_map_of_pytorch(tmp_path):
    params = make_params(seed=77)
    save_file(
        {"fc.weight": np.arange(6, dtype=np.float32).reshape(3, 2)}, tmp_path / "net.safetensors"
    )
    config = changed()
    config.restore.strict = False
    rules = (("fc/weight", "graph/kernel", "transpose(1, 0)"),)
    config.restore.sources = ({"from": str(tmp_path / "net.safetensors"), "rules": rules},)
    fresh = to_arrays(make_state(seed=77, params=params, step=False))
    (tmp_path / "run").mkdir()
    start = begin(tmp_path / "run", config, arrays=fresh)
    expected = np.arange(6, dtype=np.float32).reshape(3, 2).T
    np.testing.assert_array_equal(start.arrays["params/graph/kernel"], expected)


def test_progress_of_another_program_is_refused(tmp_path):
    config = changed()
    config.restore.sources = (
        {"from": str(write(tmp_path, "safetensors")), "parts": ("params", "progress")},
    )
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="another program has written"):
        begin(tmp_path / "run", config)


def test_other_folders_and_damaged_files(tmp_path):
    assert open_foreign(str(tmp_path)) is None
    (tmp_path / "net.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        open_foreign(str(tmp_path / "net.safetensors"))
