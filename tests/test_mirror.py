"""The layout of the tests: they mirror the package, share only helpers, and are cheap to import."""

import ast

import pytest
from helpers.paths import ROOT

TESTS = ROOT / "tests"

# Module -> the test that covers it. A module has no mirrored test if one test covers several
# modules together, or if users meet it through a program.
ELSEWHERE = {
    "__main__": "test_door.py",
    "api": "inference/test_model.py",
    "crystals.found_symmetry": "input_pipeline/test_labels.py",
    "bucket.followed": "end_to_end/test_bucket_runs.py",
    "bucket.leaving": "bucket/test_bucket_place.py",
    "bucket.ledger": "bucket/test_lease.py",
    "bucket.loose": "bucket/test_uploader.py",
    "bucket.mirror": "bucket/test_bucket_mirror.py",
    "bucket.owners": "bucket/test_ahead.py",
    "bucket.parts": "bucket/test_bucket_parts.py",
    "bucket.pins": "bucket/test_uploader.py",
    "bucket.publishing": "bucket/test_uploader.py",
    "bucket.recovery": "bucket/test_bucket_mirror.py",
    "bucket.run_files": "bucket/test_uploader.py",
    "bucket.workdir": "bucket/test_bucket_place.py",
    "chain.portions": "chain/test_chain_file.py",
    "chain.record": "chain/test_chain_file.py",
    "chain.row_digests": "chain/test_chain_file.py",
    "checkpoint.adapters": "end_to_end/test_adapters.py",
    "checkpoint.arrays": "checkpoint/test_files.py",
    "checkpoint.background": "checkpoint/test_manager.py",
    "checkpoint.capacity": "checkpoint/test_manager.py",
    "checkpoint.changes": "checkpoint/test_book_keeping.py",
    "checkpoint.damage": "checkpoint/test_files.py",
    "checkpoint.database": "checkpoint/test_parts.py",
    "checkpoint.export": "cli/test_ckpt.py",
    "checkpoint.inspect": "cli/test_ckpt.py",
    "checkpoint.lineage": "chain/test_chain_file.py",
    "checkpoint.made_from": "checkpoint/test_averaging.py",
    "checkpoint.opening": "checkpoint/test_restore_sources.py",
    "checkpoint.orbax_manager": "checkpoint/test_manager.py",
    "checkpoint.origin": "checkpoint/test_resume.py",
    "checkpoint.part_writer": "checkpoint/test_parts.py",
    "checkpoint.proposals": "checkpoint/test_matching.py",
    "checkpoint.remote": "checkpoint/test_fetched.py",
    "checkpoint.single": "checkpoint/test_averaging.py",
    "checkpoint.renaming": "checkpoint/test_matching.py",
    "checkpoint.snapshot": "checkpoint/test_parts.py",
    "checkpoint.sources": "checkpoint/test_restore_sources.py",
    "checkpoint.stored": "checkpoint/test_parts.py",
    "checkpoint.tree": "checkpoint/test_restore.py",
    "checkpoint.usage": "checkpoint/test_sharing.py",
    "checkpoint.undivided": "checkpoint/test_sharing.py",
    "checkpoint.writer": "checkpoint/test_saving.py",
    "checkpoint.yardstick": "checkpoint/test_book_keeping.py",
    "cli.average": "checkpoint/test_averaging.py",
    "cli.bisect": "cli/test_replay_command.py",
    "cli.blame": "cli/test_replay_command.py",
    "cli.command": "cli/test_main.py",
    "cli.compare": "cli/test_evaluate.py",
    "cli.console": "end_to_end/test_faults.py",
    "cli.data": "datasets/test_building.py",
    "cli.embed": "cli/test_index.py",
    "cli.flag_errors": "end_to_end/test_bad_input.py",
    "cli.goodput": "reporting/test_goodput.py",
    "cli.hits": "cli/test_search_command.py",
    "cli.imports": "end_to_end/test_import.py",
    "cli.plan": "cli/test_plan_command.py",
    "cli.prove": "end_to_end/test_proofs.py",
    "cli.publish": "inference/test_publish.py",
    "cli.replay": "cli/test_replay_command.py",
    "cli.search": "cli/test_search_command.py",
    "cli.serve": "cli/test_search_command.py",
    "cli.similarity": "cli/test_search_command.py",
    "config.adapters": "models/text/test_lora.py",
    "config.data": "config/test_schema.py",
    "config.effects": "checkpoint/test_book_keeping.py",
    "config.encoders": "config/test_encoder_groups.py",
    "config.healing": "config/test_schema.py",
    "config.run": "config/test_schema.py",
    "config.saving": "config/test_schema.py",
    "config.training": "config/test_schema.py",
    "crystals.cif_block": "crystals/test_cif.py",
    "crystals.numbers": "crystals/test_crystal.py",
    "crystals.symmetry": "crystals/test_cif_symmetry.py",
    "datasets.bad_rows": "datasets/test_datasets.py",
    "datasets.builder": "datasets/test_building.py",
    "datasets.cif_folder": "datasets/test_user_data.py",
    "datasets.columns": "datasets/test_readers.py",
    "datasets.crystal_table": "datasets/test_datasets.py",
    "datasets.csv_reader": "datasets/test_readers.py",
    "datasets.gpt_narratives.builder": "datasets/test_datasets.py",
    "datasets.jarvis_dft_3d.builder": "datasets/test_datasets.py",
    "datasets.json_reader": "datasets/test_readers.py",
    "datasets.manifest": "datasets/test_building.py",
    "datasets.materials_project_mini.builder": "datasets/test_materials_project_mini.py",
    "datasets.options": "datasets/test_user_data.py",
    "datasets.parquet_reader": "datasets/test_readers.py",
    "datasets.prepare": "datasets/test_building.py",
    "datasets.record": "datasets/test_datasets.py",
    "datasets.split": "datasets/test_datasets.py",
    "datasets.spool": "datasets/test_building.py",
    "datasets.table": "datasets/test_building.py",
    "distributed.connection": "distributed/test_link.py",
    "distributed.lost_process": "distributed/test_link.py",
    "distributed.meeting": "distributed/test_link.py",
    "distributed.program_facts": "distributed/test_agreement.py",
    "distributed.share": "end_to_end/test_several_processes.py",
    "distributed.supervisor_pipe": "supervision/test_supervisor.py",
    "distributed.tunnel": "distributed/test_link.py",
    "distributed.workdir": "end_to_end/test_faults.py",
    "errors": "end_to_end/test_bad_input.py",
    "evaluation.compare_report": "evaluation/test_comparison.py",
    "evaluation.numbers_report": "evaluation/test_inverse_design_report.py",
    "evaluation.results": "evaluation/test_comparison.py",
    "evaluation.retrieval_report": "evaluation/test_ranking.py",
    "evaluation.section": "evaluation/test_page.py",
    "evaluation.trained": "cli/test_evaluate.py",
    "evaluation.validation": "end_to_end/test_soups.py",
    "files.appended": "reporting/test_metrics_file.py",
    "files.huggingface": "models/text/test_pretrained.py",
    "files.json": "interop/test_hostile_models.py",
    "files.links": "checkpoint/test_sharing.py",
    "files.plain_pickle": "files/test_hostile_torch_files.py",
    "files.protocol": "end_to_end/test_interruption.py",
    "files.safetensors": "interop/test_hostile_models.py",
    "files.torch": "files/test_torch_files.py",
    "healing.errors": "healing/test_healer.py",
    "index.check": "index/test_index_check.py",
    "index.columns": "index/test_filters.py",
    "index.contents": "index/test_sources.py",
    "index.details": "index/test_search.py",
    "index.folders": "index/test_sources.py",
    "index.join": "index/test_build.py",
    "index.layout": "index/test_store.py",
    "index.parts": "index/test_build.py",
    "index.plan": "index/test_build.py",
    "index.query": "index/test_search.py",
    "inference.adapters": "end_to_end/test_adapters.py",
    "inference.card": "inference/test_publish.py",
    "inference.errors": "inference/test_model.py",
    "inference.identity": "inference/test_model.py",
    "inference.labels": "inference/test_class_labels.py",
    "inference.measures": "inference/test_publish.py",
    "inference.published": "inference/test_publish.py",
    "inference.published_proof": "proof/test_proof.py",
    "inference.source": "inference/test_model.py",
    "input_pipeline.descriptor_batch": "input_pipeline/test_batch.py",
    "input_pipeline.example": "input_pipeline/test_batch.py",
    "input_pipeline.tiles": "input_pipeline/test_batch.py",
    "input_pipeline.needs": "models/test_encoders.py",
    "input_pipeline.shape_search": "input_pipeline/test_shape_plan.py",
    "input_pipeline.splits": "input_pipeline/test_run_data.py",
    "interop.inferred_config": "interop/test_lightning.py",
    "interop.language_model": "interop/test_lightning.py",
    "interop.lightning_file": "interop/test_lightning.py",
    "interop.reference_config": "interop/test_lightning.py",
    "interop.reference_weights": "interop/test_lightning.py",
    "map.layout": "map/test_map_layout.py",
    "map.page": "map/test_map_files.py",
    "merging.content": "cli/test_plan_command.py",
    "merging.known_names": "cli/test_plan_command.py",
    "merging.listing": "cli/test_plan_command.py",
    "merging.model_shapes": "cli/test_plan_command.py",
    "merging.proposing": "cli/test_plan_command.py",
    "merging.rules_of_pairs": "cli/test_plan_command.py",
    "merging.similar": "cli/test_plan_command.py",
    "merging.writing": "cli/test_plan_command.py",
    "models.build": "models/test_clac.py",
    "models.dropout": "models/text/test_bert.py",
    "models.graph.descriptors": "models/graph/test_graph_descriptors.py",
    "models.graph.ops": "models/graph/test_symmetry.py",
    "models.graph.settings": "models/test_encoders.py",
    "models.losses.cosface": "training/test_losses.py",
    "models.losses.global_batch": "training/test_losses.py",
    "models.losses.infonce": "training/test_losses.py",
    "models.losses.jsd": "training/test_losses.py",
    "models.losses.settings": "training/test_losses.py",
    "models.losses.siglip": "training/test_losses.py",
    "models.normalization": "models/test_projection.py",
    "models.settings": "models/test_encoders.py",
    "models.text.attention": "models/text/test_bert.py",
    "models.text.dropout": "models/text/test_bert.py",
    "models.text.layers": "models/text/test_bert.py",
    "models.text.lm_loss": "models/text/test_decoder.py",
    "models.text.numbers": "models/text/test_number_embedding.py",
    "models.text.output": "models/text/test_bert.py",
    "models.text.pooling": "models/text/test_bert.py",
    "models.text.settings": "models/text/test_pretrained.py",
    "models.text.units": "surgery/test_grown_towers.py",
    "models.torch_layout": "models/text/test_pretrained.py",
    "cli.sweep": "cli/test_sweep_command.py",
    "sweeps.checked": "sweeps/test_definition.py",
    "sweeps.devices": "sweeps/test_driver.py",
    "sweeps.disk": "sweeps/test_driver.py",
    "sweeps.kept_config": "cli/test_sweep_command.py",
    "sweeps.listing": "cli/test_sweep_command.py",
    "sweeps.opened": "sweeps/test_driver.py",
    "sweeps.pruning": "sweeps/test_sampling.py",
    "sweeps.study_view": "sweeps/test_sampling.py",
    "sweeps.database": "sweeps/test_storage.py",
    "sweeps.page": "sweeps/test_sweep_html.py",
    "sweeps.process_name": "sweeps/test_trial_run.py",
    "sweeps.rows": "sweeps/test_trial_run.py",
    "sweeps.space": "sweeps/test_definition.py",
    "sweeps.stored_view": "sweeps/test_population_run.py",
    "sweeps.view": "sweeps/test_sweep_html.py",
    "proof.data_rows": "proof/test_proof.py",
    "proof.rows": "proof/test_proof_rows.py",
    "proof.errors": "proof/test_signature.py",
    "proof.evidence": "proof/test_proof.py",
    "proof.kept": "proof/test_proof.py",
    "proof.links": "chain/test_chain_file.py",
    "proof.other_files": "proof/test_proof.py",
    "proof.saved": "proof/test_proof.py",
    "replay.devices": "end_to_end/test_replays.py",
    "replay.errors": "cli/test_replay_command.py",
    "replay.every": "replay/test_replayer.py",
    "replay.examination": "replay/test_replayer.py",
    "replay.picture": "replay/test_step_report.py",
    "replay.report": "replay/test_step_report.py",
    "replay.setting": "replay/test_replayer.py",
    "replay.suspects": "replay/test_bisection.py",
    "reporting.progress_line": "reporting/test_run_log.py",
    "reporting.rows": "end_to_end/test_training.py",
    "reporting.throughput": "end_to_end/test_training.py",
    "run": "end_to_end/test_failures.py",
    "run_parts": "end_to_end/test_training.py",
    "run_setup": "end_to_end/test_training.py",
    "models.anatomy": "surgery/test_growth.py",
    "models.model_anatomy": "surgery/test_growth.py",
    "serve.app": "serve/test_server.py",
    "serve.batcher": "serve/test_server.py",
    "serve.messages": "serve/test_server.py",
    "session": "end_to_end/test_training.py",
    "stores.client": "stores/test_object_store.py",
    "stores.connection": "stores/test_object_store.py",
    "stores.errors": "stores/test_store_failures.py",
    "stores.failures": "stores/test_store_failures.py",
    "stores.messages": "stores/test_store_failures.py",
    "stores.store": "stores/test_object_store.py",
    "stores.transfer": "stores/test_object_store.py",
    "stores.version": "stores/test_object_store.py",
    "supervision.progress": "supervision/test_run_progress.py",
    "surgery.adapters": "models/text/test_lora.py",
    "surgery.moving": "surgery/test_transforms.py",
    "surgery.resizing": "surgery/test_transforms.py",
    "surgery.rows": "surgery/test_growth.py",
    "surgery.transform": "surgery/test_transforms.py",
    "surgery.widening": "surgery/test_growth.py",
    "tasks.contrastive": "end_to_end/test_training.py",
    "tasks.property": "end_to_end/test_property.py",
    "text.token_facts": "text/test_compositions.py",
    "text.formula_grammar": "text/test_formula.py",
    "text.formula_spaced": "text/test_formula.py",
    "text.formula_words": "text/test_formula.py",
    "text.numbers": "text/test_text_numbers.py",
    "training.fixed_order": "end_to_end/test_layouts.py",
    "training.parallel": "training/test_losses.py",
    "training.placement": "end_to_end/test_layouts.py",
    "training.state": "training/test_step.py",
    "training.state_digests": "checkpoint/test_shard_handler.py",
    "training_run": "end_to_end/test_training.py",
    "typing": "test_imports.py",
    "versions": "end_to_end/test_faults.py",
}

# Calls that compute or read files: these roots of a called name, and these methods.
WORK = ("np", "jnp", "jax", "numpy")
WORK_METHODS = {"read_text", "read_bytes", "open", "loads", "load"}
# Cheap enough for a table of cases.
CHEAP = {"np.array", "np.diag", "np.dtype", "np.eye", "np.float32", "np.zeros", "np.ones"}


def modules():
    """Dotted paths of the package's modules below `clac_jax`."""
    paths = (path for path in (ROOT / "clac_jax").rglob("*.py") if path.stem != "__init__")
    return sorted(
        ".".join(path.relative_to(ROOT / "clac_jax").with_suffix("").parts) for path in paths
    )


def mirrored(module):
    *packages, name = module.split(".")
    return TESTS.joinpath(*packages, f"test_{name}.py")


def test_every_module_has_its_test_at_the_mirrored_place_or_elsewhere():
    without = [m for m in modules() if not mirrored(m).exists() and m not in ELSEWHERE]
    assert not without, f"add tests/<package>/test_<module>.py, or a line to ELSEWHERE: {without}"


def test_the_list_of_those_elsewhere_is_up_to_date():
    known = set(modules())
    assert not [m for m in ELSEWHERE if m not in known], "modules that are gone"
    assert not [m for m in ELSEWHERE if mirrored(m).exists()], "modules with a test in place"
    assert not [test for test in ELSEWHERE.values() if not (TESTS / test).exists()]


def files():
    """The files of the tests and their helpers."""
    return sorted(path for path in TESTS.rglob("*.py") if "data" not in path.parts)


def trees():
    return [(path.relative_to(TESTS), ast.parse(path.read_text("utf-8"))) for path in files()]


def test_no_test_imports_a_test_or_a_conftest():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"helpers"}
    folders -= {path.name for path in ROOT.iterdir()}  # `tools` belongs to the project
    wrong = []
    for path, tree in trees():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            parts = [part for name in names for part in name.split(".")]
            first = {name.split(".")[0] for name in names}
            if first & folders or any(p == "conftest" or p.startswith("test_") for p in parts):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong, "put what is shared into tests/helpers"


def work_at_import(tree):
    """Calls at the top level of a module that compute with arrays or read files."""
    found = []

    def visit(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            root, _, method = name.partition(".")[0], "", name.rpartition(".")[2]
            if (root in WORK or method in WORK_METHODS) and name not in CHEAP:
                found.append((node.lineno, name))
        for child in ast.iter_child_nodes(node):
            visit(child)

    for statement in tree.body:
        if not isinstance(statement, ast.If):  # of a script, or for the environment
            visit(statement)
    return found


def test_nothing_is_computed_or_read_when_a_test_is_imported():
    wrong = [
        f"{path}:{line} {name}" for path, tree in trees() for line, name in work_at_import(tree)
    ]
    assert not wrong, "move it into a fixture"


@pytest.mark.parametrize(
    "code, names",
    [
        ("X = jnp.ones(3)", ["jnp.ones"]),
        ("X = {1: json.loads(path.read_text())}", ["json.loads", "path.read_text"]),
        ("def f():\n    return jnp.ones(3)", []),
        ("X = lambda: np.load('x')", []),
        ("X = np.diag([1.0, 2.0, 3.0])", []),
    ],
)
def test_work_at_import_is_recognized(code, names):
    assert [name for _, name in work_at_import(ast.parse(code))] == names
