"""Training of slim.pt by ultralytics, whose trainers rebuild a model from its yaml: a slim one has none."""

from __future__ import annotations

from typing import Any

from compressor.errors import ModelError


def yolo_trainer(model: Any) -> type:
    """Make the trainer for a pruned model, `model.train(trainer=yolo_trainer(model), data=...)`.

    Args:
        model: `YOLO("slim.pt")`, or what it saved when it was trained.

    Returns:
        Its usual trainer, except that it trains the model as it is, with its classes.

    Raises:
        ModelError: When the training starts: the data have another number of classes.
    """
    usual: Any = model._smart_load("trainer")

    class SlimTrainer(usual):  # type: ignore[misc]  # a class of ultralytics
        """Trains the slim module itself."""

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            """Return the slim module in place of one that is built from a yaml.

            Args:
                cfg: Not used.
                weights: A slim module that was saved; None = that of `model`.
                verbose: Not used.

            Returns:
                The module.

            Raises:
                ModelError: The data have another number of classes.
            """
            slim = model.model if weights is None else weights
            classes = len(slim.names)
            if self.data["nc"] != classes:
                problem = f"the data have {self.data['nc']} classes, but the pruned model has {classes}"
                raise ModelError("model/setting-differs", str(self.args.model), problem, "give data of these classes")
            return slim

    return SlimTrainer
