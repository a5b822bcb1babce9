"""Processes of one run on 127.0.0.1, as on several hosts."""

# 20 steps with dropout, token masks and random views of the texts.
FLAGS = (
    "--config.graph_encoder.name=composition",  # compiles fastest
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
    "--config.dataset.max_examples=40",
    "--config.checkpoint.every_n_steps=3",
    "--config.text_encoder.dropout=0.1",
    "--config.augment.mask_prob=0.15",
    "--config.learning_rate=2e-4",
)


def ended(running, seconds=240):
    """The exit codes; a process that hangs is killed and fails the test."""
    try:
        return [process.wait(seconds) for process in running]
    finally:
        for process in running:
            process.kill()


def log_of(workdir, index):
    with open(f"{workdir}.log{index}", encoding="utf-8") as log:
        return log.read()
