"""Names that help shows; what they name takes seconds to import. A test holds them against it."""

POLICIES = (
    "greedy_gain",
    "high_energy",
    "low_energy",
    "high_rise",
    "random",
    "reservoir",
    "proportional",
    "nearest_neighbour",
    "k_means",
    "k_center",
    "facility_location",
    "herding",
    "high_loss",
)
FORMATS = (
    "imagefolder",
    "json",
    "kohya",
    "simpletuner",
    "ai-toolkit",
    "onetrainer",
    "diffusers",
    "hf",
)

__all__ = ["FORMATS", "POLICIES"]
