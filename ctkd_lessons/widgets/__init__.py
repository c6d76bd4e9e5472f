"""The pictures a learner can move. Each shows its static twin first, for readers without a kernel."""

from ctkd_lessons.widgets.domains import pseudo_label_viewer, shift_viewer
from ctkd_lessons.widgets.meta import adaptation_viewer
from ctkd_lessons.widgets.plain import attention_viewer, confidence_slider, temperature_slider
from ctkd_lessons.widgets.rules import rule_viewer
from ctkd_lessons.widgets.tasks import gradient_plane, scene_viewer, target_viewer, transfer_map_viewer

__all__ = [
    "adaptation_viewer",
    "attention_viewer",
    "confidence_slider",
    "gradient_plane",
    "pseudo_label_viewer",
    "rule_viewer",
    "scene_viewer",
    "shift_viewer",
    "target_viewer",
    "temperature_slider",
    "transfer_map_viewer",
]
