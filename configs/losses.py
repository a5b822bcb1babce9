"""The base run with a different loss: `--config=configs/losses.py:jsd_concat`."""

import ml_collections

from clac_jax.config.shipped import shipped_config
from clac_jax.errors import ConfigError

# What each entry changes in the base run. "jsd" is CLIP-Lite's loss, with its ablations.
_PLAIN = {"use_visual_intramodal_loss": False, "use_textual_intramodal_loss": False}
_BOTH = {"use_visual_intramodal_loss": True, "use_textual_intramodal_loss": True}
_JSD = {"loss.name": "jsd"} | _BOTH
_NO_JOINT_SPACE = {"structure_weight": 0.0}  # crystals and texts are scored by a perceptron
LOSSES = {
    "infonce": _BOTH,
    "infonce_minimal": _PLAIN,
    "cosface": {"loss.name": "cosface"} | _PLAIN,
    "siglip": {"loss.name": "siglip", "logit_scale_init": 10.0} | _PLAIN,
    "jsd_dot": _JSD,
    "jsd_concat": _JSD | _NO_JOINT_SPACE | {"loss.critic": "concat"},
    "jsd_condot": _JSD | _NO_JOINT_SPACE | {"loss.critic": "condot"},
    "jsd_dotcon": _JSD | {"loss.critic": "dotcon"},
    "jsd_no_image_prior": _JSD | {"loss.crystal_prior": False},
    "jsd_no_text_prior": _JSD | {"loss.text_prior": False},
    "jsd_no_prior": _JSD | {"loss.crystal_prior": False, "loss.text_prior": False},
    "jsd_no_self_supervision": _JSD | _PLAIN,
    "jsd_minimal": _JSD | _PLAIN | {"loss.crystal_prior": False, "loss.text_prior": False},
}


def get_config(name: str = "infonce") -> ml_collections.ConfigDict:
    if name not in LOSSES:
        raise ConfigError(f"Unknown loss {name!r}. Use one of {', '.join(LOSSES)}.")
    config = shipped_config("base")
    config.update_from_flattened_dict(LOSSES[name])
    return config
