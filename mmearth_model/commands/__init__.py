"""The commands of ``mmearth-train``, one module per group; `mmearth_model.cli` combines them."""
