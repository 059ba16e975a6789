"""A LightningModule of which only a part is trained, and only that part is kept in checkpoints."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR


class PartlyTrained(LightningModule):
    """Trains what requires a gradient; the rest is in the pipeline's folder.

    Attributes:
        learning_rate: of AdamW.
        warmup: steps over which it rises to its value, at the start of every fit.
    """

    learning_rate: float
    warmup: int

    def configure_optimizers(self) -> Any:
        """AdamW on what is trained, its learning rate warmed up."""
        optimizer = torch.optim.AdamW(self._trained().values(), lr=self.learning_rate)
        warmup = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained only: the rest is in the pipeline's folder."""
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self._trained()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint in which other weights were trained."""
        differing = set(checkpoint["state_dict"]) ^ set(self._trained())
        if differing:
            raise ValueError(f"The checkpoint and this model do not train the same weights: {sorted(differing)[:5]}.")
